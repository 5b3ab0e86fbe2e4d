package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"sort"
	"strconv"
	"strings"

	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// What one message must look like when it is read back. The line form is described in README.md.
type sentMessage struct {
	topic       string
	broker      string
	queue       int
	offset      int64 // -1: a one-way send learns no offset
	msgID       string
	offsetMsgID string
	tags        string
	keys        string
	properties  map[string]string
	bodySize    int
	bodySha256  string
}

func unplaced(m *primitive.Message, properties map[string]string) sentMessage {
	return sentMessage{
		topic: m.Topic, queue: -1, offset: -1, tags: m.GetTags(), keys: m.GetKeys(),
		properties: properties, bodySize: len(m.Body), bodySha256: hash(m.Body),
	}
}

// A message as a consumer has received it, without properties.
func delivered(m *primitive.MessageExt) sentMessage {
	s := unplaced(&m.Message, nil)
	s.broker, s.queue, s.offset, s.msgID = m.Queue.BrokerName, m.Queue.QueueId, m.QueueOffset, m.MsgId
	return s
}

// The message at `index` of those sent with one result: 0, unless it is a batch.
func (s sentMessage) placed(result *primitive.SendResult, index int) (sentMessage, error) {
	if result.Status != primitive.SendOK {
		return s, fmt.Errorf("send status %d of %s", result.Status, s.keys)
	}
	offsetIDs := strings.Split(result.OffsetMsgID, ",")
	if index >= len(offsetIDs) {
		return s, fmt.Errorf("%d offset message ids in the answer to a batch, %d wanted", len(offsetIDs), index+1)
	}
	s.broker, s.queue = result.MessageQueue.BrokerName, result.MessageQueue.QueueId
	s.offset, s.offsetMsgID = result.QueueOffset+int64(index), offsetIDs[index]
	// This client returns the id of the batch for a batch, which no member carries.
	if len(offsetIDs) == 1 {
		s.msgID = result.MsgID
	}
	return s, nil
}

func hash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

func (s sentMessage) line() string {
	var pairs []string
	for name, value := range s.properties {
		pairs = append(pairs, url.QueryEscape(name)+"="+url.QueryEscape(value))
	}
	sort.Strings(pairs)
	q := url.QueryEscape
	return strings.Join([]string{q(s.topic), q(s.broker), strconv.Itoa(s.queue), strconv.FormatInt(s.offset, 10), q(s.msgID),
		q(s.offsetMsgID), q(s.tags), q(s.keys), strings.Join(pairs, "&"), strconv.Itoa(s.bodySize), s.bodySha256}, "\t")
}

func writeManifest(path string, sent []sentMessage) error {
	var lines strings.Builder
	for _, s := range sent {
		lines.WriteString(s.line() + "\n")
	}
	return os.WriteFile(path, []byte(lines.String()), 0o644)
}

func readManifest(path string) ([]sentMessage, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var sent []sentMessage
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		s, err := parseSent(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		sent = append(sent, s)
	}
	return sent, lines.Err()
}

func parseSent(line string) (sentMessage, error) {
	column := strings.Split(line, "\t")
	if len(column) != 11 {
		return sentMessage{}, fmt.Errorf("a manifest line has 11 columns: %q", line)
	}
	properties := map[string]string{}
	pairs, err := url.ParseQuery(column[8])
	if err != nil {
		return sentMessage{}, err
	}
	for name, values := range pairs {
		properties[name] = values[0]
	}
	text := make([]string, len(column))
	for i := range column {
		if text[i], err = url.QueryUnescape(column[i]); err != nil {
			return sentMessage{}, err
		}
	}
	s := sentMessage{topic: text[0], broker: text[1], msgID: text[4], offsetMsgID: text[5], tags: text[6], keys: text[7],
		properties: properties, bodySha256: text[10]}
	if s.queue, err = strconv.Atoi(text[2]); err != nil {
		return s, err
	}
	if s.offset, err = strconv.ParseInt(text[3], 10, 64); err != nil {
		return s, err
	}
	s.bodySize, err = strconv.Atoi(text[9])
	return s, err
}
