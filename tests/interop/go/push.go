package main

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

const (
	// This client requests routes every 30 s, also that of a new group's retry topic, and rebalances every 20 s.
	pushDeadline   = 120 * time.Second
	pushMessages   = 60
	pushRetries    = 2
	requestTimeout = 20 * time.Second
	requests       = 20
)

// Cases of push consumers, all at the same time, because they mostly wait. Topics PREFIX_go_{rebalance,poison,request,broadcast} must
// exist.
func runPush(t target, r *report) {
	var running sync.WaitGroup
	for name, body := range map[string]func(target) (string, error){
		"rebalances from 1 to 2 to 1 members while messages arrive": rebalancePush,
		"a poison message goes through all retries to the dead letters": func(t target) (string, error) {
			return poisonPush(t, "", t.topic("poison"))
		},
		"the same in a namespace":                                     func(t target) (string, error) { return poisonPush(t, "SPACE", t.topic("spaced")) },
		"broadcasting: two members get everything, offsets are local": broadcastPush,
		"request and reply":                                           requestPush,
	} {
		running.Add(1)
		go func(name string, body func(target) (string, error)) {
			defer running.Done()
			r.checkWithin(pushDeadline, name, func() (string, error) { return body(t) })
		}(name, body)
	}
	running.Wait()
}

// A push consumer and what it has received.
type member struct {
	rocketmq.PushConsumer
	sync.Mutex
	received []*primitive.MessageExt
}

// `succeeds` gets each message; the default is that all succeed.
func startPush(t target, group, instance, topic string, succeeds func(*primitive.MessageExt) bool, more ...consumer.Option) (*member, error) {
	options := append([]consumer.Option{consumer.WithNameServer(t.namesrv), consumer.WithGroupName(group), consumer.WithInstance(instance),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset)}, more...)
	c, err := rocketmq.NewPushConsumer(options...)
	if err != nil {
		return nil, err
	}
	m := &member{PushConsumer: c}
	listener := func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		m.Lock()
		defer m.Unlock()
		result := consumer.ConsumeSuccess
		for _, message := range messages {
			m.received = append(m.received, message)
			if succeeds != nil && !succeeds(message) {
				result = consumer.ConsumeRetryLater
			}
		}
		return result, nil
	}
	if err := c.Subscribe(topic, consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}, listener); err != nil {
		return nil, err
	}
	return m, c.Start()
}

func (m *member) count() int {
	m.Lock()
	defer m.Unlock()
	return len(m.received)
}

// The keys of what the members have received, sorted; a key is there as often as its message was delivered.
func receivedKeys(members ...*member) []string {
	var keys []string
	for _, m := range members {
		m.Lock()
		for _, message := range m.received {
			keys = append(keys, message.GetKeys())
		}
		m.Unlock()
	}
	sort.Strings(keys)
	return keys
}

func startProducer(t target, instance string, more ...producer.Option) (rocketmq.Producer, error) {
	options := append([]producer.Option{producer.WithNameServer(t.namesrv), producer.WithGroupName(instance), producer.WithInstanceName(instance),
		producer.WithQueueSelector(producer.NewRoundRobinQueueSelector())}, more...)
	p, err := rocketmq.NewProducer(options...)
	if err != nil {
		return nil, err
	}
	return p, p.Start()
}

func sendKey(p rocketmq.Producer, topic, key string) error {
	m := primitive.NewMessage(topic, []byte("body of "+key)).WithKeys([]string{key})
	result, err := p.SendSync(context.Background(), m)
	if err == nil && result.Status != primitive.SendOK {
		err = fmt.Errorf("send status %d of %s", result.Status, key)
	}
	return err
}

func sendKeys(p rocketmq.Producer, topic, name string) ([]string, error) {
	var keys []string
	for i := 0; i < pushMessages; i++ {
		key := fmt.Sprintf("%s%d", name, i)
		if err := sendKey(p, topic, key); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys, nil
}

// What is missing in `all`, or nothing.
func missing(wanted, all []string) []string {
	there := map[string]bool{}
	for _, key := range all {
		there[key] = true
	}
	var gone []string
	for _, key := range wanted {
		if !there[key] {
			gone = append(gone, key)
		}
	}
	return gone
}

// Sends until it is told to stop. Returns the keys.
func sendContinuously(p rocketmq.Producer, topic string, stop chan struct{}) ([]string, error) {
	var sent []string
	for {
		key := fmt.Sprintf("k%d", len(sent))
		if err := sendKey(p, topic, key); err != nil {
			return sent, err
		}
		sent = append(sent, key)
		select {
		case <-stop:
			return sent, nil
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func rebalancePush(t target) (string, error) {
	topic := t.topic("rebalance")
	p, err := startProducer(t, topic+"_producer")
	if err != nil {
		return "", err
	}
	defer p.Shutdown()
	stop, stopped := make(chan struct{}), make(chan error, 1)
	var sent []string
	go func() {
		var err error
		sent, err = sendContinuously(p, topic, stop)
		stopped <- err
	}()
	first, err := startPush(t, topic+"_group", topic+"_first", topic, nil)
	if err != nil {
		return "", err
	}
	defer first.Shutdown()
	if err := await(pushDeadline, "the first has messages", func() bool { return first.count() >= pushMessages }); err != nil {
		return "", err
	}
	began := time.Now()
	second, err := startPush(t, topic+"_group", topic+"_second", topic, nil)
	if err != nil {
		return "", err
	}
	if err := await(pushDeadline, "the second has messages", func() bool { return second.count() >= pushMessages }); err != nil {
		return "", err
	}
	joined := time.Since(began)
	if err := second.Shutdown(); err != nil {
		return "", err
	}
	began = time.Now()
	before := queuesSince(first, 0)
	count := first.count()
	if err := await(pushDeadline, "the first has all queues again", func() bool { return queuesSince(first, count) == before }); err != nil {
		return "", err
	}
	left := time.Since(began)
	close(stop)
	if err := <-stopped; err != nil {
		return "", err
	}
	if err := await(pushDeadline, "everything is consumed", func() bool { return len(missing(sent, receivedKeys(first, second))) == 0 }); err != nil {
		return "", fmt.Errorf("%w; missing are %v", err, missing(sent, receivedKeys(first, second)))
	}
	return fmt.Sprintf("%d messages, %d twice, shared after %d ms, taken back after %d ms",
		len(sent), len(receivedKeys(first, second))-len(sent), joined.Milliseconds(), left.Milliseconds()), nil
}

// In how many queues the messages after the first `count` were.
func queuesSince(m *member, count int) int {
	m.Lock()
	defer m.Unlock()
	queues := map[string]bool{}
	for _, message := range m.received[count:] {
		queues[queueName(message.Queue)] = true
	}
	return len(queues)
}

// Names in the namespace are written without it; the broker knows them as SPACE%NAME, and the topics of the group as
// %RETRY%SPACE%GROUP and %DLQ%SPACE%GROUP.
func poisonPush(t target, namespace, topic string) (string, error) {
	p, err := startProducer(t, topic+"_producer", producer.WithNamespace(namespace))
	if err != nil {
		return "", err
	}
	defer p.Shutdown()
	good, err := sendKeys(p, topic, "good")
	if err != nil {
		return "", err
	}
	if err := sendKey(p, topic, "poison"); err != nil {
		return "", err
	}
	group := topic + "_group"
	succeeds := func(message *primitive.MessageExt) bool { return message.GetKeys() != "poison" }
	m, err := startPush(t, group, topic+"_consumer", topic, succeeds, consumer.WithMaxReconsumeTimes(pushRetries), consumer.WithNamespace(namespace))
	if err != nil {
		return "", err
	}
	defer m.Shutdown()
	wanted := append(good, "poison", "poison", "poison")
	if err := await(pushDeadline, "all attempts", func() bool { return m.count() >= len(wanted) }); err != nil {
		return "", fmt.Errorf("%w; received are %v", err, receivedKeys(m))
	}
	if namespace != "" {
		group = namespace + "%" + group
	}
	dead, err := readDeadLetters(t, "%DLQ%"+group)
	if err != nil {
		return "", err
	}
	if found := receivedKeys(m); strings.Join(found, " ") != strings.Join(wanted, " ") {
		return "", fmt.Errorf("wanted %v, received %v", wanted, found)
	}
	if body := string(dead.Body); dead.GetKeys() != "poison" || body != "body of poison" || dead.ReconsumeTimes != pushRetries+1 {
		return "", fmt.Errorf("the dead letter is %v", dead)
	}
	return fmt.Sprintf("%d attempts", pushRetries+1), requireTopics(t, "%RETRY%"+group, "%DLQ%"+group)
}

// The only dead letter, as a push consumer of the dead letters gets it. Their topic does not exist at first, and then this client does not start.
func readDeadLetters(t target, topic string) (*primitive.MessageExt, error) {
	name := strings.ReplaceAll(topic, "%", "_")
	var reader *member
	var err error
	attempt := 0
	if awaited := await(pushDeadline, "a consumer of "+topic+" starts", func() bool {
		attempt++
		reader, err = startPush(t, name+"_reader", fmt.Sprintf("%s%d", name, attempt), topic, nil)
		return err == nil
	}); awaited != nil {
		return nil, fmt.Errorf("%w: %w", awaited, err)
	}
	defer reader.Shutdown()
	if err := await(pushDeadline, "a dead letter", func() bool { return reader.count() > 0 }); err != nil {
		return nil, err
	}
	reader.Lock()
	defer reader.Unlock()
	if len(reader.received) != 1 {
		return nil, fmt.Errorf("%d dead letters", len(reader.received))
	}
	return reader.received[0], nil
}

func requireTopics(t target, wanted ...string) error {
	a, err := admin.NewAdmin(admin.WithResolver(primitive.NewPassthroughResolver(t.namesrv)))
	if err != nil {
		return err
	}
	defer a.Close()
	list, err := a.FetchAllTopicList(context.Background())
	if err != nil {
		return err
	}
	if gone := missing(wanted, list.TopicList); len(gone) > 0 {
		return fmt.Errorf("topics %v are not in %v", gone, list.TopicList)
	}
	return nil
}

// Each member gets each message once, and continues at its own offset after a restart.
func broadcastPush(t target) (string, error) {
	topic := t.topic("broadcast")
	p, err := startProducer(t, topic+"_producer")
	if err != nil {
		return "", err
	}
	defer p.Shutdown()
	start := func(instance string) (*member, error) {
		return startPush(t, topic+"_group", topic+instance, topic, nil, consumer.WithConsumerModel(consumer.BroadCasting))
	}
	stays, err := start("_stays")
	if err != nil {
		return "", err
	}
	defer stays.Shutdown()
	leaves, err := start("_leaves")
	if err != nil {
		return "", err
	}
	both, err := sendKeys(p, topic, "both")
	if err != nil {
		return "", err
	}
	if err := requireReceived(leaves, both); err != nil {
		return "", err
	}
	if err := leaves.Shutdown(); err != nil {
		return "", err
	}
	apart, err := sendKeys(p, topic, "apart")
	if err != nil {
		return "", err
	}
	if err := requireReceived(stays, append(apart, both...)); err != nil {
		return "", err
	}
	returns, err := start("_leaves")
	if err != nil {
		return "", err
	}
	defer returns.Shutdown()
	return "", requireReceived(returns, apart)
}

// Waits until the member has received exactly these, which are sorted.
func requireReceived(m *member, wanted []string) error {
	if err := await(pushDeadline, "what was sent", func() bool { return m.count() >= len(wanted) }); err != nil {
		return fmt.Errorf("%w; missing are %v", err, missing(wanted, receivedKeys(m)))
	}
	if found := receivedKeys(m); strings.Join(found, " ") != strings.Join(wanted, " ") {
		return fmt.Errorf("wanted %v, received %v", wanted, found)
	}
	return nil
}

func requestPush(t target) (string, error) {
	topic := t.topic("request")
	replier, err := startProducer(t, topic+"_replier")
	if err != nil {
		return "", err
	}
	defer replier.Shutdown()
	failures := make(chan error, 1)
	reply := func(question *primitive.MessageExt) bool {
		if question.GetKeys() == "route" {
			return true
		}
		// The client's function takes the body for properties.
		answer, err := consumer.CreateReplyMessage(question, nil)
		if err == nil {
			answer.Body = []byte("reply to " + string(question.Body))
			_, err = replier.SendSync(context.Background(), answer)
		}
		if err != nil {
			select {
			case failures <- err:
			default:
			}
		}
		return true
	}
	m, err := startPush(t, topic+"_group", topic+"_consumer", topic, reply)
	if err != nil {
		return "", err
	}
	defer m.Shutdown()
	asker, err := startProducer(t, topic+"_asker")
	if err != nil {
		return "", err
	}
	defer asker.Shutdown()
	// No reply reaches a client before its first heartbeat, which it sends a second after its start to the brokers it knows then.
	if err := sendKey(asker, topic, "route"); err != nil {
		return "", err
	}
	if err := await(requestTimeout, "a first reply", func() bool { return ask(asker, topic, "first", time.Second) == nil }); err != nil {
		return "", errors.Join(err, pending(failures))
	}
	for i := 0; i < requests; i++ {
		if err := ask(asker, topic, fmt.Sprintf("question %d", i), requestTimeout); err != nil {
			return "", errors.Join(err, pending(failures))
		}
	}
	return fmt.Sprintf("%d requests", requests), nil
}

func ask(asker rocketmq.Producer, topic, question string, limit time.Duration) error {
	answer, err := asker.Request(context.Background(), limit, primitive.NewMessage(topic, []byte(question)))
	if err == nil && string(answer.Body) != "reply to "+question {
		err = fmt.Errorf("%q was answered by %q", question, answer.Body)
	}
	return err
}

// An error that has been reported, if there is one.
func pending(failures chan error) error {
	select {
	case err := <-failures:
		return err
	default:
		return nil
	}
}
