use super::super::run::{Tasks, pause};
use super::*;

const A: Node = Node(1);
const B: Node = Node(2);
const AT_B: Address = Address { node: B, port: 10 };
const SECOND: Duration = Duration::from_secs(1);

/// Nothing breaks by chance.
fn steady() -> Conditions {
    Conditions { breaks_after_block_percent: 0, ..Conditions::default() }
}

fn simulate(seed: u64, conditions: Conditions, test: impl AsyncFn(&Tasks<'_>, &Network<u32>)) {
    let tasks = Tasks::new(seed);
    let network = Network::new(tasks.clock(), seed, conditions);
    tasks.run_until(test(&tasks, &network));
}

/// The ends at A, and those at B.
async fn connected(network: &Network<u32>) -> (Ends<u32>, Incoming<u32>) {
    let mut listener = network.listen(AT_B);
    let ends = network.connect(A, AT_B).await.unwrap();
    (ends, listener.accept().await)
}

/// Polls `future` until the network is quiet for a second; it must not end.
async fn assert_waits<T>(tasks: &Tasks<'_>, future: impl Future<Output = T>) {
    let is_done = Timeout::new(future, tasks.clock().sleep(SECOND)).await.is_ok();
    assert!(!is_done, "it does not wait");
}

fn kind<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn frames_arrive_once_in_order_and_after_the_latency_of_their_link() {
    for seed in 0..50 {
        simulate(seed, steady(), async |tasks, network| {
            let clock = tasks.clock();
            let ((mut send, _recv), mut peer) = connected(network).await;
            assert_eq!(peer.from, A);
            for number in 0..200 {
                let before = clock.now();
                send.send(number).await.unwrap();
                send.send(number).await.unwrap();
                assert_eq!(peer.recv.recv().await.unwrap(), Some(number));
                let took = clock.now() - before;
                let Conditions { latency_min, latency_max, .. } = steady();
                assert!((latency_min..=latency_max * 3 / 2).contains(&took), "{took:?}");
                assert_eq!(peer.recv.recv().await.unwrap(), Some(number));
            }
            drop(send);
            assert_eq!(peer.recv.recv().await.unwrap(), None);
            assert_eq!(peer.recv.recv().await.unwrap(), None, "the end stays");
        });
    }
}

#[test]
fn a_sender_waits_when_the_window_is_full() {
    simulate(1, Conditions { window_frames: 2, ..steady() }, async |tasks, network| {
        let ((mut send, _recv), mut peer) = connected(network).await;
        send.send(1).await.unwrap();
        send.send(2).await.unwrap();
        assert_waits(tasks, send.send(3)).await;
        assert_eq!(peer.recv.recv().await.unwrap(), Some(1));
        send.send(4).await.unwrap();
        assert_eq!(peer.recv.recv().await.unwrap(), Some(2));
        assert_eq!(peer.recv.recv().await.unwrap(), Some(4), "the wait for 3 was dropped");
    });
}

#[test]
fn a_stream_that_breaks_loses_what_was_on_its_way_and_the_sender_may_not_know() {
    let (mut noticed, mut unnoticed) = (0, 0);
    for seed in 0..200 {
        let conditions = Conditions { breaks_per_million: 20_000, ..steady() };
        let sent = Cell::new(0);
        let tasks = Tasks::new(seed);
        let network = Network::new(tasks.clock(), seed, conditions);
        tasks.run_until(async {
            let ((mut send, recv), Incoming { recv: mut peer_recv, .. }) =
                connected(&network).await;
            let (sent, clock) = (&sent, tasks.clock().clone());
            tasks.spawn("sender", async move {
                let _recv = recv;
                while send.send(sent.get()).await.is_ok() {
                    sent.set(sent.get() + 1);
                    // The frame arrives before the next one is sent.
                    clock.sleep(SECOND).await;
                }
            });
            let mut next = 0;
            let error = loop {
                match peer_recv.recv().await {
                    Ok(frame) => assert_eq!(frame, Some(next)),
                    Err(error) => break error,
                }
                next += 1;
            };
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            tasks.clock().sleep(SECOND).await;
            match sent.get() - next {
                0 => noticed += 1,
                1 => unnoticed += 1,
                more => panic!("{more} frames were lost"),
            }
        });
    }
    assert!(noticed > 10 && unnoticed > 10, "{noticed} noticed, {unnoticed} not");
}

#[test]
fn a_blocked_link_holds_frames_and_the_other_direction_does_not() {
    simulate(1, steady(), async |tasks, network| {
        let ((mut send, mut recv), mut peer) = connected(network).await;
        send.send(1).await.unwrap();
        network.block(A, B);
        send.send(2).await.unwrap();
        assert_waits(tasks, peer.recv.recv()).await;
        peer.send.send(7).await.unwrap();
        assert_eq!(recv.recv().await.unwrap(), Some(7));
        network.unblock(A, B);
        let healed = tasks.clock().now();
        assert_eq!(peer.recv.recv().await.unwrap(), Some(1));
        assert_eq!(peer.recv.recv().await.unwrap(), Some(2));
        assert!(tasks.clock().now() > healed, "they are sent again");
    });
}

#[test]
fn a_stream_with_held_frames_may_break_when_its_link_is_unblocked() {
    let conditions = Conditions { breaks_after_block_percent: 100, ..steady() };
    simulate(1, conditions, async |_, network| {
        let ((mut send, mut recv), mut peer) = connected(network).await;
        network.block(A, B);
        network.unblock(A, B);
        send.send(1).await.unwrap();
        assert_eq!(peer.recv.recv().await.unwrap(), Some(1), "an idle stream goes on");
        network.block(A, B);
        send.send(2).await.unwrap();
        network.unblock(A, B);
        let reset = Some(ErrorKind::ConnectionReset);
        assert_eq!(kind(peer.recv.recv().await), reset);
        assert_eq!(kind(recv.recv().await), reset);
        assert_eq!(kind(send.send(3).await), reset);
        assert_eq!(kind(peer.send.send(4).await), reset);
    });
}

#[test]
fn neither_an_end_nor_a_missing_receiver_shows_through_a_blocked_link() {
    simulate(1, steady(), async |tasks, network| {
        let ((mut send, mut recv), peer) = connected(network).await;
        network.block(B, A);
        drop(peer);
        assert_waits(tasks, recv.recv()).await;
        send.send(1).await.unwrap();
        network.unblock(B, A);
        assert_eq!(recv.recv().await.unwrap(), None);
        assert_eq!(kind(send.send(2).await), Some(ErrorKind::ConnectionReset));
    });
}

#[test]
fn connecting_needs_both_directions_and_a_listener() {
    simulate(1, steady(), async |tasks, network| {
        let refused = network.connect(A, AT_B).await;
        assert_eq!(kind(refused), Some(ErrorKind::ConnectionRefused));
        let mut listener = network.listen(AT_B);
        for (from, to) in [(A, B), (B, A)] {
            network.block(from, to);
            let before = tasks.clock().now();
            assert_eq!(kind(network.connect(A, AT_B).await), Some(ErrorKind::TimedOut));
            assert_eq!(tasks.clock().now() - before, steady().connect_max);
            network.unblock(from, to);
        }
        network.block(A, B);
        let unblock_later = async {
            tasks.clock().sleep(steady().connect_max / 2).await;
            network.unblock(A, B);
        };
        let (connected, ()) = futures_util::join!(network.connect(A, AT_B), unblock_later);
        assert!(connected.is_ok());
        listener.accept().await;
        drop(listener);
        let refused = network.connect(A, AT_B).await;
        assert_eq!(kind(refused), Some(ErrorKind::ConnectionRefused));
    });
}

#[test]
fn what_a_listener_did_not_accept_is_bounded_and_closed_with_it() {
    simulate(1, steady(), async |_, network| {
        let listener = network.listen(AT_B);
        let mut waiting = Vec::new();
        for _ in 0..BACKLOG_MAX {
            waiting.push(network.connect(A, AT_B).await.unwrap());
        }
        assert_eq!(kind(network.connect(A, AT_B).await), Some(ErrorKind::TimedOut));
        drop(listener);
        let (mut send, mut recv) = waiting.pop().unwrap();
        assert_eq!(recv.recv().await.unwrap(), None);
        assert_eq!(kind(send.send(1).await), Some(ErrorKind::ConnectionReset));
    });
}

#[test]
fn closing_ends_both_directions() {
    simulate(1, steady(), async |_, network| {
        let ((mut send, mut recv), mut peer) = connected(network).await;
        send.send(1).await.unwrap();
        send.close();
        assert_eq!(recv.recv().await.unwrap(), None);
        assert_eq!(kind(send.send(2).await), Some(ErrorKind::BrokenPipe));
        assert_eq!(peer.recv.recv().await.unwrap(), Some(1));
        assert_eq!(peer.recv.recv().await.unwrap(), None);
        assert_eq!(kind(peer.send.send(3).await), Some(ErrorKind::ConnectionReset));
    });
}

#[test]
fn breaking_the_streams_of_a_node_leaves_others_alone() {
    simulate(1, steady(), async |_, network| {
        let (c, d) = (Node(3), Node(4));
        let (_ends, mut at_b) = connected(network).await;
        let mut listener = network.listen(Address { node: c, port: 1 });
        let (mut send, _recv) = network.connect(d, Address { node: c, port: 1 }).await.unwrap();
        let mut at_c = listener.accept().await;
        network.break_streams(A);
        assert_eq!(kind(at_b.recv.recv().await), Some(ErrorKind::ConnectionReset));
        send.send(1).await.unwrap();
        assert_eq!(at_c.recv.recv().await.unwrap(), Some(1));
    });
}

/// A paused node looks like a slow one; a killed one closes its streams.
#[test]
fn a_paused_node_is_silent_and_a_killed_one_is_gone() {
    let tasks = Tasks::new(1);
    let network = Network::<u32>::new(tasks.clock(), 1, steady());
    tasks.run_until(async {
        let tasks = &tasks;
        let group = tasks.group();
        let mut listener = network.listen(AT_B);
        tasks.spawn_in(group, "echo", async move {
            let mut peer = listener.accept().await;
            while let Ok(Some(frame)) = peer.recv.recv().await {
                if peer.send.send(frame).await.is_err() {
                    return;
                }
            }
        });
        let (mut send, mut recv) = network.connect(A, AT_B).await.unwrap();
        send.send(1).await.unwrap();
        assert_eq!(recv.recv().await.unwrap(), Some(1));
        tasks.pause(group);
        send.send(2).await.unwrap();
        assert_waits(tasks, recv.recv()).await;
        network.connect(A, AT_B).await.unwrap();
        tasks.resume(group);
        assert_eq!(recv.recv().await.unwrap(), Some(2));
        tasks.kill(group);
        assert_eq!(recv.recv().await.unwrap(), None);
        assert_eq!(kind(network.connect(A, AT_B).await), Some(ErrorKind::ConnectionRefused));
    });
}

#[test]
fn the_same_seed_gives_the_same_network() {
    let trace = |seed| {
        let conditions = Conditions { breaks_per_million: 1_000, ..steady() };
        let tasks = Tasks::new(seed);
        let network = Network::new(tasks.clock(), seed, conditions);
        tasks.run_until(async {
            let ((mut send, _recv), mut peer) = connected(&network).await;
            for number in 0..100 {
                if send.send(number).await.is_err() || peer.recv.recv().await.is_err() {
                    break;
                }
                pause().await;
            }
        });
        (tasks.trace(), tasks.clock().now())
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1).1, trace(2).1);
}
