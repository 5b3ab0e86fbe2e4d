'use strict';

// What the Node programs share: options, cases, and the clients' configuration.

const crypto = require('crypto');

const CASE_DEADLINE_MS = 45000;

const options = Object.fromEntries(process.argv.slice(2).map(argument => {
  const at = argument.indexOf('=');
  return [ argument.slice(0, at), argument.slice(at + 1) ];
}));

// The default logger reports every reconnection; what fails is reported by the cases.
const logger = { info() {}, warn() {}, error() {}, debug() {} };

const clientOptions = { nameSrv: options.namesrv.split(';'), httpclient: {}, logger };

const hash = content => crypto.createHash('sha256').update(content).digest('hex');

// Runs one case under the deadline and prints its line. Returns whether it has passed.
async function check(name, body) {
  const began = Date.now();
  let timer;
  const deadline = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no result within ${CASE_DEADLINE_MS} ms`)), CASE_DEADLINE_MS);
  });
  const line = (verdict, detail) => console.log(`${verdict} ${options.label}: ${name} (${Date.now() - began} ms)${detail && `: ${detail}`}`);
  try {
    line('PASS', await Promise.race([ body(), deadline ]));
    return true;
  } catch (error) {
    line('FAIL', String(error && error.stack).replace(/\s+/g, ' '));
    return false;
  } finally {
    clearTimeout(timer);
  }
}

// Exits explicitly, because clients keep the process alive. `cases` are pairs of a name and a function.
async function main(cases) {
  let passed = true;
  for (const [ name, body ] of cases) passed = await check(name, body) && passed;
  process.exit(passed ? 0 : 1);
}

module.exports = { clientOptions, hash, main, options };
