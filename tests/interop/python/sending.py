"""Every way to send that the binding has."""

import random
import threading

from rocketmq.client import Message, Producer, SendStatus

from sent import Sent, sha256

KIB = 1024
BODY_SIZE_MAX = 4 * KIB * KIB - 64 * KIB
# The client compresses bodies from this size on.
COMPRESSED_FROM = 4 * KIB + 1
SIZES = (1, KIB, COMPRESSED_FROM - 1, COMPRESSED_FROM, 64 * KIB, 1024 * KIB, BODY_SIZE_MAX)
ASYNC_DEADLINE_S = 30
SEQUENCES = 5
SEQUENCE_LENGTH = 40


def compressible(size):
    return (size // 10 * '来自Python的消息，' + 'x' * 30).encode()[:size]


def incompressible(size):
    """`set_body` takes a C string: a zero byte would end it."""
    return bytes(random.Random(size).choices(range(1, 256), k=size))


def started_producer(namesrv, group):
    producer = Producer(group)
    producer.set_namesrv_addr(namesrv)
    producer.set_timeout(10000)
    # The default is 128 KiB.
    producer.set_max_message_size(BODY_SIZE_MAX)
    producer.start()
    return producer


def message(topic, keys, body, tags='', properties=None):
    """The client's message, and what others must read."""
    made = Message(topic)
    made.set_body(body)
    made.set_keys(keys)
    if tags:
        made.set_tags(tags)
    for name, value in (properties or {}).items():
        made.set_property(name, value)
    return made, Sent(topic, keys, len(body), sha256(body), tags, properties or {})


def require_ok(result, keys):
    if result.status != SendStatus.OK:
        raise ValueError(f'send status {result.status} of {keys}')
    return result


def send_sync(producer, topic):
    wanted = [message(topic, 'py-untagged', '既无标签也无属性'.encode()),
              message(topic, 'py-a py-b', '双十一零点，万人下单 🛒'.encode(), '从Python', {'来源': 'Python 客户端', 'emoji': '🎉𠮷', 'signs': 'a=b&c "d"'})]
    for size in SIZES:
        wanted.append(message(topic, f'py-c-{size}', compressible(size), 'size', {'size': str(size)}))
        wanted.append(message(topic, f'py-r-{size}', incompressible(size), 'size'))
    wanted += [message(topic, f'py-{i}', compressible(1 + i * 7), f't{i % 3}', {'i': str(i)}) for i in range(100)]
    for made, sent in wanted:
        sent.msg_id = require_ok(producer.send_sync(made), sent.keys).msg_id
    return [sent for _, sent in wanted]


def send_async(producer, topic):
    wanted = [message(topic, f'py-async-{i}', incompressible(100 + i), 'async') for i in range(50)]
    problems, done = [], threading.Semaphore(0)

    def stored(sent, result):
        sent.msg_id = result.msg_id
        done.release()

    def failed(sent, error):
        problems.append(f'{sent.keys}: {error}')
        done.release()

    for made, sent in wanted:
        producer.send_async(made, lambda result, sent=sent: stored(sent, result), lambda error, sent=sent: failed(sent, error))
    for _ in wanted:
        if not done.acquire(timeout=ASYNC_DEADLINE_S):
            raise TimeoutError(f'a callback is missing after {ASYNC_DEADLINE_S} s')
    if problems:
        raise ValueError('; '.join(problems))
    return [sent for _, sent in wanted]


def send_oneway(producer, topic):
    wanted = [message(topic, f'py-oneway-{i}', compressible(100 + i), 'oneway') for i in range(50)]
    for made, _ in wanted:
        producer.send_oneway(made)
    return [sent for _, sent in wanted]


def send_orderly(producer, topic):
    """Several sequences at the same time, each into the queue that its number selects."""
    sent_all = []
    for number in range(SEQUENCE_LENGTH):
        for sequence in range(SEQUENCES):
            made, sent = message(topic, f'py-{sequence}-{number}', f'{sequence} {number}'.encode(), 'orderly')
            sent.msg_id = require_ok(producer.send_orderly(made, sequence), sent.keys).msg_id
            sent_all.append(sent)
    return sent_all
