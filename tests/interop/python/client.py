"""The Python client program of the interop suite: the public binding `rocketmq` of the C++ client.

    python client.py namesrv=IP:PORT prefix=P label=L shards=N manifest=FILE read=NAME=FILE

The topics PREFIX_py_{sync,async,oneway,orderly,shared} must exist. Writes a manifest (README.md) of what it
sent, and reads what the others in `read` sent. With one shard it pulls too: the binding keeps its offset of a queue by
topic and number, so with more it would skip messages.
"""

import os
import sys
import threading
import time

from consuming import orderly, pull, push, retry, shared_push
from sending import message, require_ok, send_async, send_oneway, send_orderly, send_sync, started_producer
from sent import read_manifest, write_manifest

CASE_DEADLINE_S = 60
SHARED_MESSAGES = 60
SHARED_ROUNDS = 60


class Report:
    """Runs cases, each under a deadline, and prints one line for each."""

    def __init__(self, label):
        self.label, self.failed = label, 0

    def check(self, name, case):
        outcome = []

        def run():
            try:
                outcome.append(('PASS', case()))
            except Exception as error:
                outcome.append(('FAIL', ' '.join(repr(error).split())))

        began = time.monotonic()
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(CASE_DEADLINE_S)
        verdict, detail = outcome[0] if outcome else ('FAIL', f'no result within {CASE_DEADLINE_S} s')
        self.failed += verdict == 'FAIL'
        print(f'{verdict} {self.label}: {name} ({(time.monotonic() - began) * 1000:.0f} ms): {detail}', flush=True)


class Suite:
    def __init__(self, options):
        self.namesrv, self.prefix = options['namesrv'], options['prefix']
        self.pulls = options['shards'] == '1'
        self.manifest, self.others = options['manifest'], options.get('read', '')
        self.report = Report(options['label'])
        self.producer = started_producer(self.namesrv, f'{self.prefix}_py_producer')
        self.sent = {}

    def topic(self, name):
        return f'{self.prefix}_py_{name}'

    def send(self, name, what, way):
        def case():
            self.sent[name] = way(self.producer, self.topic(name))
            return f'{len(self.sent[name])} messages'
        self.report.check(what, case)

    def group(self, name):
        return f'{self.prefix}_py_group_{name}'

    def read(self, name, what, way):
        def case():
            return way(self.namesrv, self.group(f'{way.__name__}_{name}'), self.topic(name), self.sent[name])
        self.report.check(what, case)

    def shared(self):
        topic = self.topic('shared')
        rounds = [[message(topic, f'py-{number}-{i}', b'shared') for i in range(SHARED_MESSAGES)] for number in range(SHARED_ROUNDS)]

        def send(wanted):
            for made, sent in wanted:
                require_ok(self.producer.send_sync(made), sent.keys)

        return shared_push(self.namesrv, self.group('shared'), topic, rounds, send)

    def run(self):
        self.send('sync', 'sends keys, tags, properties, bodies of 1 B to 4 MiB', send_sync)
        self.send('async', 'sends with callbacks', send_async)
        self.send('oneway', 'sends one-way', send_oneway)
        self.send('orderly', 'sends sequences to selected queues', send_orderly)
        write_manifest(self.manifest, [one for sent in self.sent.values() for one in sent])
        for name in ('sync', 'async', 'oneway'):
            self.read(name, f'push consumers of {name}', push)
        self.report.check('push consumers divide the queues', self.shared)
        self.read('orderly', 'an orderly push consumer', orderly)
        if self.pulls:
            self.read('sync', 'pulls sync', pull)
        else:
            # Takes half a minute, so it is not repeated with one shard.
            self.read('oneway', 'a push consumer refuses a message once', retry)
        for named in filter(None, self.others.split(',')):
            name, file = named.split('=', 1)
            self.report.check(f'reads what {name} sent', lambda: self.read_others(name, read_manifest(file)))

    def read_others(self, name, sent):
        # Dots are not allowed in the names of groups.
        return push(self.namesrv, self.group(name.replace('.', '')), sent[0].topic, sent)


def main():
    suite = Suite(dict(argument.split('=', 1) for argument in sys.argv[1:]))
    suite.run()
    # Without destructors: threads of the C++ library may still run.
    os._exit(1 if suite.report.failed else 0)


main()
