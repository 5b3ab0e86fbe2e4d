'use strict';

// The Node client program of the interop suite: sends with the stock ali-ons producer and writes a
// manifest (README.md) for others to read back. The topic PREFIX_node must exist.
//
//   node send.js namesrv=IP:PORT[;IP:PORT] prefix=P label=L manifest=FILE

const crypto = require('crypto');
const fs = require('fs');
const { Message, Producer } = require('ali-ons');
const { clientOptions, hash, main, options } = require('./program');

const BODY_SIZE_MAX = 128 * 1024; // The client's own limit.

// Chinese text when compressible, so that sizes cut characters anywhere.
function body(size, compressible) {
  return compressible ? Buffer.alloc(size, 'Node 客户端发来的消息；') : crypto.randomBytes(size);
}

function line(message, sent, result) {
  const pairs = Object.entries(sent.properties).map(([ name, value ]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`);
  // This client sends no id of its own: what it calls message id is the offset message id.
  return [ message.topic, result.messageQueue.brokerName, result.messageQueue.queueId, result.queueOffset, '', result.msgId,
    sent.tags, sent.keys ].map(encodeURIComponent).concat(pairs.sort().join('&'), sent.size, sent.hash).join('\t');
}

async function send(producer, topic, { keys, tags, properties = {}, content }) {
  // Without a tag this client sends the word null as one.
  const message = tags ? new Message(topic, tags, content) : new Message(topic, content);
  message.keys = keys;
  Object.assign(message.properties, properties);
  // The client replaces the body by its compressed form.
  const sent = { tags: tags || 'null', keys: keys.join(' '), properties, size: content.length, hash: hash(content) };
  const result = await producer.send(message);
  if (result.sendStatus !== 'SEND_OK') throw new Error(`send status ${result.sendStatus} of ${sent.keys}`);
  return line(message, sent, result);
}

function messages() {
  const all = [
    { keys: [ 'node-untagged' ], content: Buffer.from('neither tag nor property') },
    { keys: [ 'node-a', 'node-b' ], tags: '从Node', content: Buffer.from('双十一零点，万人下单 🛒'),
      properties: { 来源: 'Node 客户端', emoji: '🎉𠮷', signs: 'a=b&c "d" \\ \'e\'' } },
  ];
  for (const compressible of [ true, false ]) {
    for (const size of [ 1, 4095, 4096, 4097, 65536, BODY_SIZE_MAX ]) {
      all.push({ keys: [ `node-${compressible}-${size}` ], tags: 'size', content: body(size, compressible) });
    }
  }
  for (let i = 0; i < 100; i++) {
    all.push({ keys: [ `node-${i}` ], tags: `t${i % 3}`, content: body(1 + i * 7, true), properties: { i: String(i) } });
  }
  return all;
}

async function run() {
  const topic = `${options.prefix}_node`;
  const producer = new Producer({ ...clientOptions, producerGroup: `${options.prefix}_node_producer` });
  await producer.ready();
  const lines = [];
  for (const message of messages()) lines.push(await send(producer, topic, message));
  fs.writeFileSync(options.manifest, lines.join('\n') + '\n');
  return `${lines.length} messages`;
}

main([[ 'sends keys, tags, properties, bodies of 1 B to 128 KiB', run ]]);
