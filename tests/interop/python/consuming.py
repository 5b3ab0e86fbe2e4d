"""Push consumers, orderly ones too, and the pull consumer."""

import ctypes
import threading
import time
from collections import Counter, namedtuple

from rocketmq.client import PullConsumer, PushConsumer, RecvMessage
from rocketmq.exceptions import ffi_check
from rocketmq.ffi import _CConsumeStatus, dll

from sent import sha256

CONSUME_DEADLINE_S = 40
# Members of a group rebalance every 10 s, and look for a new group's retries every 30 s.
REBALANCE_DEADLINE_S = 30
MEMBERS = 2

Received = namedtuple('Received', 'member keys tags msg_id body_sha256 properties queue text')
# The binding reads a body as a C string. This reads as many bytes as were sent.
body_address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(('GetMessageBody', dll))


clients = []


def kept(client):
    """Threads of a client may outlive its shutdown, and crash if it is destroyed."""
    clients.append(client)
    return client


class Group:
    """Members of a group in this process, and what they have received."""

    def __init__(self, namesrv, group, topic, sent, orderly=False):
        self.namesrv, self.group, self.topic, self.orderly = namesrv, group, topic, orderly
        self.by_keys = {one.keys: one for one in sent}
        self.received, self.problems, self.members = [], [], []
        self.lock = threading.Lock()

    def join(self):
        name = f'member-{len(self.members)}'
        consumer = kept(PushConsumer(self.group, orderly=self.orderly))
        consumer.set_namesrv_addr(self.namesrv)
        consumer.set_instance_name(f'{self.group}-{name}')
        consumer.subscribe(self.topic, lambda message: self.take(name, message))
        consumer.start()
        self.members.append(consumer)

    def take(self, member, message):
        # If this raises, the status that the binding returns is undefined.
        try:
            received = copied(member, message, self.by_keys)
        except Exception as error:
            self.problems.append(repr(error))
            return
        with self.lock:
            self.received.append(received)

    def leave(self):
        for consumer in self.members:
            consumer.shutdown()

    def await_all(self, sent):
        missing = {one.keys for one in sent}
        await_until(CONSUME_DEADLINE_S, lambda: not missing.difference(one.keys for one in list(self.received)),
                    lambda: f'{len(missing.difference(one.keys for one in list(self.received)))} of {len(missing)} messages are missing')
        if self.problems:
            raise ValueError('; '.join(self.problems[:3]))


def await_until(seconds, holds, complaint):
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f'after {seconds} s: {complaint()}')
        time.sleep(0.02)


def copied(member, message, by_keys):
    """A message is only valid until the callback returns."""
    keys = text(message.keys)
    sent = by_keys.get(keys)
    if sent is None:
        raise ValueError(f'nobody sent {keys}')
    body = ctypes.string_at(body_address(message._handle), sent.body_size + 1)
    # A longer body does not end here.
    ends = body[-1] == 0
    properties = {name: text(message.get_property(name)) for name in sent.properties}
    return Received(member, keys, text(message.tags), message.id, sha256(body[:-1] if ends else body), properties,
                    message.queue_id, body[:100].rstrip(b'\0'))


def text(maybe):
    return (maybe or b'').decode()


def require_same(sent, received):
    """Every message came as it was sent."""
    by_keys = {one.keys: one for one in received}
    for one in sent:
        found = by_keys.get(one.keys)
        if found is None:
            raise ValueError(f'{one.keys} is missing')
        wanted = (one.tags, one.body_sha256, one.properties)
        if wanted != (found.tags, found.body_sha256, found.properties):
            raise ValueError(f'{one.keys}: sent {one}, received {found}')
        if one.msg_id and one.msg_id != found.msg_id:
            raise ValueError(f'{one.keys}: id {one.msg_id} was sent, {found.msg_id} received')


def push(namesrv, group, topic, sent):
    """Two members of a group get all messages, each as it was sent."""
    consumers = Group(namesrv, group, topic, sent)
    try:
        for _ in range(MEMBERS):
            consumers.join()
        consumers.await_all(sent)
    finally:
        consumers.leave()
    require_same(sent, consumers.received)
    return f'{len(sent)} messages, {len(consumers.received) - len(sent)} twice'


def shared_push(namesrv, group, topic, rounds, send):
    """Two members divide the queues. Once they have, each message comes once, to one of them."""
    consumers = Group(namesrv, group, topic, [one for sent in rounds for _, one in sent])
    deadline = time.monotonic() + REBALANCE_DEADLINE_S
    try:
        for _ in range(MEMBERS):
            consumers.join()
        for number, wanted in enumerate(rounds):
            before = len(consumers.received)
            send(wanted)
            consumers.await_all([one for _, one in wanted])
            shares = Counter(one.member for one in consumers.received[before:])
            if len(shares) == MEMBERS and sum(shares.values()) == len(wanted):
                return f'{" and ".join(map(str, shares.values()))} messages, in round {number + 1}'
            if time.monotonic() > deadline:
                break
            time.sleep(1)
    finally:
        consumers.leave()
    raise TimeoutError(f'after {REBALANCE_DEADLINE_S} s the members have received {dict(shares)} of {len(wanted)} messages')


def orderly(namesrv, group, topic, sent):
    """One member gets each sequence in its order."""
    consumers = Group(namesrv, group, topic, sent, orderly=True)
    try:
        consumers.join()
        consumers.await_all(sent)
    finally:
        consumers.leave()
    require_same(sent, consumers.received)
    newest, queues = {}, {}
    for one in consumers.received:
        sequence, number = map(int, one.text.split())
        if number != newest.get(sequence, -1) + 1:
            raise ValueError(f'sequence {sequence}: {number} after {newest.get(sequence, -1)}')
        newest[sequence] = number
        queues.setdefault(sequence, set()).add(one.queue)
    return f'{len(sent)} messages of {len(newest)} sequences in queues {sorted(queue for each in queues.values() for queue in each)}'


def retry(namesrv, group, topic, sent):
    """A message that is refused once comes again, which only a callback of the C library can ask for."""
    attempts, refused = {}, sent[0].keys

    def take(_, handle):
        message = RecvMessage(handle)
        keys = text(message.keys)
        times = attempts.setdefault(keys, [])
        times.append(message.reconsume_times)
        return _CConsumeStatus.RECONSUME_LATER if keys == refused and len(times) == 1 else _CConsumeStatus.CONSUME_SUCCESS

    consumer = kept(PushConsumer(group))
    consumer.set_namesrv_addr(namesrv)
    ffi_check(dll.Subscribe(consumer._handle, topic.encode(), b'*'))
    consumer._register_callback(take)
    consumer.start()
    try:
        await_until(CONSUME_DEADLINE_S, lambda: len(attempts) == len(sent) and len(attempts[refused]) > 1, lambda: f'attempts {attempts}')
    finally:
        consumer.shutdown()
    if attempts[refused] != [0, 1]:
        raise ValueError(f'attempts at {refused}: {attempts[refused]}')
    # The messages that were delivered together with it are redelivered too.
    return f'{len(attempts)} messages, {sum(max(times) == 1 for times in attempts.values())} came back'


def pull(namesrv, group, topic, sent):
    """Pulls each queue to its end, and once more: nothing is left."""
    consumer = kept(PullConsumer(group))
    consumer.set_namesrv_addr(namesrv)
    consumer.start()
    try:
        by_keys = {one.keys: one for one in sent}
        received = [copied('', message, by_keys) for message in consumer.pull(topic)]
        again = sum(1 for _ in consumer.pull(topic))
    finally:
        consumer.shutdown()
    require_same(sent, received)
    if len(received) != len(sent) or again:
        raise ValueError(f'{len(sent)} messages were sent, {len(received)} pulled, then again {again}')
    return f'{len(received)} messages'
