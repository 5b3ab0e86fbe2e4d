'use strict';

// The Node consumer of the interop suite: reads with the stock ali-ons push consumer what others sent. The topics
// PREFIX_node_restart and PREFIX_node_retry must exist, and the one with tags t0, t1 and t2 that send.js has filled.
//
//   node consume.js namesrv=IP:PORT[;IP:PORT] prefix=P label=L manifests=NAME=FILE,...

const fs = require('fs');
const { Consumer, Message, Producer } = require('ali-ons');
const { clientOptions, hash, main, options } = require('./program');

const FIRST = 'CONSUME_FROM_FIRST_OFFSET';
// It finds the route of a new group's retry topic, which the broker creates, only by asking again; 30 s is the default.
const ROUTES_EVERY_MS = 1000;

// A member of a group. `handle` gets each message; what it returns or throws is what the client gets.
async function start(group, topic, tags, handle) {
  const name = `${options.prefix}_${group}`;
  const consumer = new Consumer({
    ...clientOptions, consumerGroup: name, instanceName: `${name}_${Date.now()}`, consumeFromWhere: FIRST,
    pollNameServerInteval: ROUTES_EVERY_MS, rebalanceInterval: ROUTES_EVERY_MS,
  });
  consumer.errors = [];
  consumer.on('error', error => consumer.errors.push(error));
  consumer.subscribe(topic, tags, async (message, queue) => handle(message, queue));
  await consumer.ready();
  return consumer;
}

const pause = ms => new Promise(resolve => setTimeout(resolve, ms));

// Polls until the condition holds, until the deadline of the case.
async function until(holds) {
  while (!holds()) await pause(10);
}

function ensure(holds, what) {
  if (!holds) throw new Error(what);
}

// Lines of a manifest (README.md) by place: broker, queue and offset.
function readManifest(file) {
  const decode = text => decodeURIComponent(text.replace(/\+/g, ' '));
  const byPlace = new Map();
  for (const line of fs.readFileSync(file, 'utf8').trim().split('\n')) {
    const [ topic, broker, queue, offset, , offsetId, tags, keys, pairs, size, sha256 ] = line.split('\t');
    const properties = Object.fromEntries(pairs.split('&').filter(Boolean).map(pair => pair.split('=').map(decode)));
    byPlace.set(`${decode(broker)}/${queue}/${offset}`, { topic: decode(topic), offsetId: decode(offsetId),
      tags: decode(tags), keys: decode(keys), properties, size: Number(size), sha256 });
  }
  return byPlace;
}

const placeOf = (message, queue) => `${queue.brokerName}/${message.queueId}/${message.queueOffset}`;

function requireSame(sent, message, place) {
  const wanted = [ sent.topic, sent.offsetId || message.msgId, sent.tags, sent.keys, sent.size, sent.sha256 ];
  const found = [ message.topic, message.msgId, message.properties.TAGS || '', message.properties.KEYS || '', message.body.length, hash(message.body) ];
  ensure(String(wanted) === String(found), `${place}: wanted ${wanted}, found ${found}`);
  for (const [ name, value ] of Object.entries(sent.properties)) {
    ensure(message.properties[name] === value, `${place}: property ${name} is ${message.properties[name]}, not ${value}`);
  }
}

async function readAll(name, file) {
  const sent = readManifest(file);
  const topic = sent.values().next().value.topic;
  const found = [];
  const consumer = await start(`all_${name.replace(/\W/g, '')}`, topic, '*', (message, queue) => found.push([ placeOf(message, queue), message ]));
  await until(() => found.length >= sent.size);
  await consumer.close();
  ensure(found.length === sent.size && new Set(found.map(([ place ]) => place)).size === sent.size,
    `${found.length} deliveries of ${sent.size} messages`);
  for (const [ place, message ] of found) {
    ensure(sent.has(place), `nothing was sent to ${place}`);
    requireSame(sent.get(place), message, place);
  }
  return `${found.length} messages`;
}

async function filterTags(file) {
  const sent = [ ...readManifest(file).values() ];
  const wanted = sent.filter(one => [ 't1', '从Node' ].includes(one.tags)).map(one => one.keys).sort();
  const found = [];
  const consumer = await start('tags', sent[0].topic, 't1 || 从Node', message => found.push(message.properties.KEYS));
  await until(() => found.length >= wanted.length);
  await consumer.close();
  ensure(String(found.sort()) === String(wanted), `wanted ${wanted}, found ${found}`);
  return `${found.length} of ${sent.length} messages`;
}

async function sendKeys(topic, keys) {
  const producer = new Producer({ ...clientOptions, producerGroup: `${topic}_producer` });
  await producer.ready();
  for (const key of keys) {
    const message = new Message(topic, 'tag', `body of ${key}`);
    message.keys = [ key ];
    const result = await producer.send(message);
    ensure(result.sendStatus === 'SEND_OK', `send status ${result.sendStatus} of ${key}`);
  }
  await producer.close();
}

const numbered = (name, count) => [ ...Array(count).keys() ].map(i => name + i);

async function restart() {
  const topic = `${options.prefix}_node_restart`;
  const before = numbered('before', 50);
  const after = numbered('after', 50);
  const byFirst = [];
  const bySecond = [];
  await sendKeys(topic, before);
  const first = await start('restart', topic, '*', message => byFirst.push(message.properties.KEYS));
  await until(() => byFirst.length >= before.length);
  await first.close();
  await sendKeys(topic, after);
  const second = await start('restart', topic, '*', message => bySecond.push(message.properties.KEYS));
  await until(() => bySecond.length >= after.length);
  await second.close();
  ensure(String(byFirst.sort()) === String(before.sort()), `the first received ${byFirst}`);
  ensure(String(bySecond.sort()) === String(after.sort()), `the second received ${bySecond}`);
  return '';
}

// The client sends a message back when the callback fails, and when it returns ACTION_RETRY; the latter only the first time.
async function retry() {
  const topic = `${options.prefix}_node_retry`;
  const keys = numbered('k', 20);
  const wanted = new Map(keys.map(key => [ key, 1 ])).set('k3', 3).set('k5', 2);
  const attempts = new Map(keys.map(key => [ key, [] ]));
  const consumer = await start('retry', topic, '*', message => {
    const key = message.properties.KEYS;
    const count = attempts.get(key).push(`${message.reconsumeTimes} ${message.body}`);
    if (count === wanted.get(key)) return;
    if (key === 'k3') throw new Error('refused');
    return Consumer.ACTION_RETRY;
  });
  await sendKeys(topic, keys);
  await until(() => keys.every(key => attempts.get(key).length >= wanted.get(key)));
  await consumer.close();
  for (const [ key, found ] of attempts) {
    const expected = [ ...Array(wanted.get(key)).keys() ].map(count => `${count} body of ${key}`);
    ensure(String(found) === String(expected), `${key}: wanted ${expected}, found ${found}`);
  }
  // If it could not send a message back, the client would send a new one.
  const errors = consumer.errors.filter(error => !error.message.endsWith('refused'));
  ensure(errors.length === 0, `errors: ${errors}`);
  return '';
}

const manifests = options.manifests.split(',').map(named => named.split('='));
const byNode = new Map(manifests).get('node');
main([
  ...manifests.map(([ name, file ]) => [ `push consumer reads what ${name} sent`, () => readAll(name, file) ]),
  [ 'push consumer of several tags', () => filterTags(byNode) ],
  [ 'a new consumer continues where the last one has stopped', restart ],
  [ 'messages whose callback fails are delivered again', retry ],
]);
