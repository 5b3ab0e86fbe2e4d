"""What one message must look like when it is read back. The line form is described in README.md."""

import hashlib
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote_plus, unquote_plus


@dataclass
class Sent:
    topic: str
    keys: str
    body_size: int
    body_sha256: str
    tags: str = ''
    properties: dict = field(default_factory=dict)
    # A result of this client has no queue, so a message is identified by its keys.
    msg_id: str = ''

    def line(self):
        pairs = '&'.join(f'{quote_plus(name)}={quote_plus(value)}' for name, value in sorted(self.properties.items()))
        texts = [quote_plus(text) for text in (self.topic, '', '-1', '-1', self.msg_id, '', self.tags, self.keys)]
        return '\t'.join(texts + [pairs, str(self.body_size), self.body_sha256])


def sha256(body):
    return hashlib.sha256(body).hexdigest()


def write_manifest(path, sent):
    with open(path, 'w', encoding='utf-8') as file:
        file.writelines(one.line() + '\n' for one in sent)


def read_manifest(path):
    with open(path, encoding='utf-8') as file:
        return [parse(line.rstrip('\n')) for line in file if line.strip()]


def parse(line):
    columns = line.split('\t')
    topic, msg_id, tags, keys = (unquote_plus(columns[at]) for at in (0, 4, 6, 7))
    properties = dict(parse_qsl(columns[8], keep_blank_values=True))
    return Sent(topic, keys, int(columns[9]), columns[10], tags, properties, msg_id)
