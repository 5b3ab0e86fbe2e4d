package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

const (
	pauseBetweenSends = 50 * time.Millisecond
	joinDeadline      = 60 * time.Second
	// A client asks for locks every 20 s, or when the broker notifies it.
	leaveDeadline = 30 * time.Second
	// Locks expire after 60 s, and clients ask every 20 s.
	takeoverDeadline = 100 * time.Second
	orderedDeadline  = takeoverDeadline + 200*time.Second
)

// One message that a consumer has received.
type event struct {
	consumer, queue string
	number          int
}

// Orderly consumers of a group, of which one leaves and one is killed while messages are sent. Unlike in Ordered.java they do not share
// the queues for long: this client does not unlock a queue that it has to give up, so the next owner waits until the lock expires.
type orderedRun struct {
	sync.Mutex
	target       target
	topic, group string
	events       []event
	sent         map[string]int
}

// The consumer that will be killed: prints what it receives. Ends when its standard input does.
func consumeOrdered(t target, topic, group string) error {
	run := &orderedRun{target: t, topic: topic, group: group}
	_, err := run.start("child", func(e event) { fmt.Println("EVENT", e.queue, e.number) })
	if err == nil {
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	return err
}

func runOrdered(t target, topic, group string) (string, error) {
	run := &orderedRun{target: t, topic: topic, group: group, sent: map[string]int{}}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() { stopped <- run.send(stop) }()
	second, err := run.start("second", run.note)
	if err != nil {
		return "", err
	}
	if err := run.awaitConsumed("second", joinDeadline); err != nil {
		return "", err
	}
	child, err := run.startChild()
	if err != nil {
		return "", err
	}
	defer child.Process.Kill()
	began := time.Now()
	if err := second.Shutdown(); err != nil {
		return "", err
	}
	if err := run.awaitConsumed("child", leaveDeadline); err != nil {
		return "", err
	}
	left := time.Since(began)

	if _, err := run.start("first", run.note); err != nil {
		return "", err
	}
	began = time.Now()
	if err := child.Process.Kill(); err != nil {
		return "", err
	}
	child.Wait()
	if err := run.awaitConsumed("first", takeoverDeadline); err != nil {
		return "", err
	}
	died := time.Since(began)
	close(stop)
	if err := <-stopped; err != nil {
		return "", err
	}
	if err := run.awaitConsumed("first", joinDeadline); err != nil {
		return "", err
	}
	found, err := run.requireOrder()
	return fmt.Sprintf("%s, taken over after %d ms from one that left, after %d ms from one that died", found, left.Milliseconds(), died.Milliseconds()), err
}

func await(limit time.Duration, what string, holds func() bool) error {
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %s", limit, what)
		}
	}
	return nil
}

// Sends messages 0, 1, 2, ... to each queue.
func (run *orderedRun) send(stop chan struct{}) error {
	p, err := rocketmq.NewProducer(producer.WithNameServer(run.target.namesrv), producer.WithGroupName(run.group+"_sender"),
		producer.WithQueueSelector(producer.NewManualQueueSelector()))
	if err != nil {
		return err
	}
	if err := p.Start(); err != nil {
		return err
	}
	defer p.Shutdown()
	_, queues, err := newConsumer(run.target, run.group+"_routes", run.group+"_routes", run.topic)
	if err != nil {
		return err
	}
	for number := 0; ; number++ {
		for _, queue := range queues {
			m := primitive.NewMessage(run.topic, []byte(strconv.Itoa(number)))
			m.Queue = queue
			if _, err := p.SendSync(context.Background(), m); err != nil {
				return err
			}
			run.Lock()
			run.sent[queueName(queue)] = number
			run.Unlock()
		}
		select {
		case <-stop:
			return nil
		case <-time.After(pauseBetweenSends):
		}
	}
}

func queueName(queue *primitive.MessageQueue) string {
	return fmt.Sprintf("%s/%d", queue.BrokerName, queue.QueueId)
}

func (run *orderedRun) start(name string, received func(event)) (rocketmq.PushConsumer, error) {
	c, err := rocketmq.NewPushConsumer(consumer.WithNameServer(run.target.namesrv), consumer.WithGroupName(run.group),
		consumer.WithInstance(fmt.Sprintf("%s-%d", name, os.Getpid())), consumer.WithConsumerOrder(true),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	if err != nil {
		return nil, err
	}
	listener := func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, message := range messages {
			number, err := strconv.Atoi(string(message.Body))
			if err != nil {
				return consumer.SuspendCurrentQueueAMoment, err
			}
			received(event{name, queueName(message.Queue), number})
		}
		return consumer.ConsumeSuccess, nil
	}
	if err := c.Subscribe(run.topic, consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}, listener); err != nil {
		return nil, err
	}
	return c, c.Start()
}

// Starts a consumer in its own process, whose output arrives as events.
func (run *orderedRun) startChild() (*exec.Cmd, error) {
	child := exec.Command(os.Args[0], "-namesrv", strings.Join(run.target.namesrv, ";"), "-ordered-consume", run.topic, "-group", run.group)
	child.Stderr = os.Stderr
	if _, err := child.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := child.StdoutPipe()
	if err != nil {
		return nil, err
	}
	go func() {
		for lines := bufio.NewScanner(output); lines.Scan(); {
			e := event{consumer: "child"}
			if n, _ := fmt.Sscanf(lines.Text(), "EVENT %s %d", &e.queue, &e.number); n == 2 {
				run.note(e)
			}
		}
	}()
	return child, child.Start()
}

func (run *orderedRun) note(e event) {
	run.Lock()
	defer run.Unlock()
	run.events = append(run.events, e)
}

// The newest message of each queue that a consumer has received.
func (run *orderedRun) newest(consumer string) map[string]int {
	run.Lock()
	defer run.Unlock()
	newest := map[string]int{}
	for _, e := range run.events {
		if e.consumer == consumer {
			newest[e.queue] = e.number
		}
	}
	return newest
}

// Waits until the consumer has received what each queue contains by now.
func (run *orderedRun) awaitConsumed(consumer string, limit time.Duration) error {
	wanted := map[string]int{}
	run.Lock()
	for queue, number := range run.sent {
		wanted[queue] = number
	}
	run.Unlock()
	err := await(limit, consumer+" consumes all queues", func() bool {
		newest := run.newest(consumer)
		for queue, number := range wanted {
			if found, is := newest[queue]; !is || found < number {
				return false
			}
		}
		return len(newest) > 0
	})
	if err != nil {
		return fmt.Errorf("%w; wanted %v, received %v", err, wanted, run.newest(consumer))
	}
	return nil
}

// Checks what each queue's consumers received, in order of time.
func (run *orderedRun) requireOrder() (string, error) {
	run.Lock()
	defer run.Unlock()
	byQueue := map[string][]event{}
	for _, e := range run.events {
		byQueue[e.queue] = append(byQueue[e.queue], e)
	}
	repeated := 0
	for queue, events := range byQueue {
		newest, owners, before := -1, 0, event{}
		for _, e := range events {
			isNewOwner := before.consumer != e.consumer
			if isNewOwner {
				owners++
			}
			if e.number > newest+1 || !isNewOwner && e.number != before.number+1 {
				return "", fmt.Errorf("%s: %v after %v, newest %d", queue, e, before, newest)
			}
			if e.number <= newest {
				repeated++
			} else {
				newest = e.number
			}
			before = e
		}
		// More means that two consumed the queue at the same time.
		if owners > 3 {
			return "", fmt.Errorf("%s: %d changes of owner", queue, owners)
		}
	}
	return fmt.Sprintf("%d queues, %d messages, %d repeated", len(byQueue), len(run.events), repeated), nil
}
