//! The reactor on a real kernel.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::Either;
use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use nix::sys::socket;

use super::core::current;
use super::net::{TcpListener, TcpStream};
use super::*;

fn host() -> Host {
    let builder = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(0)
        .ring_depth(64)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1));
    Host::make(builder, Duration::ZERO).unwrap()
}

/// Runs `main`; a wait that nothing ends fails after ten seconds.
fn run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    host().run(async {
        spawn(async {
            sleep(Duration::from_secs(10)).await;
            panic!("the test hangs");
        })
        .detach();
        spawn(main).await
    })
}

#[test]
fn an_idle_thread_sleeps_until_its_next_deadline() {
    let (turns, elapsed) = run(async {
        let begin = Instant::now();
        let before = current().turns.get();
        sleep(Duration::from_millis(30)).await;
        (current().turns.get() - before, begin.elapsed())
    });
    assert!(elapsed >= Duration::from_millis(30), "{elapsed:?}");
    assert!(turns < 20, "{turns} turns");
}

#[test]
fn the_longest_time_that_a_task_keeps_the_thread_is_known() {
    let [waits, runs, afterwards] = run(async {
        take_longest_poll();
        sleep(Duration::from_millis(300)).await;
        let waits = take_longest_poll();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(20) {}
        pass().await;
        [waits, take_longest_poll(), take_longest_poll()]
    });
    assert!(waits < Duration::from_millis(300), "{waits:?}");
    assert!(runs >= Duration::from_millis(20), "{runs:?}");
    assert_eq!(afterwards, Duration::ZERO);
}

#[test]
fn a_sleep_may_be_dropped_and_polled_again() {
    run(async {
        drop(sleep(Duration::from_secs(5)));
        let count = || current().timers.borrow().len();
        let before = count();
        let long = Box::pin(sleep(Duration::from_secs(5)));
        let (_, long) =
            match futures_util::future::select(long, Box::pin(sleep(Duration::from_millis(1))))
                .await
            {
                Either::Left(_) => panic!("five seconds are not over"),
                Either::Right(((), long)) => ((), long),
            };
        assert_eq!(count(), before + 1);
        drop(long);
        assert_eq!(count(), before);
        sleep(Duration::ZERO).await;
    });
}

#[test]
fn what_another_thread_completes_is_noticed_at_once() {
    let took = run(async {
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let (give, taken) = flume::bounded(1);
            let thread = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(2));
                give.send(Instant::now()).unwrap();
            });
            let sent_at: Instant = reachable(taken.recv_async()).await.unwrap();
            longest = longest.max(sent_at.elapsed());
            thread.join().unwrap();
        }
        longest
    });
    // The executor alone would notice it after up to 100 ms, half of the time after 50.
    assert!(took < Duration::from_millis(45), "{took:?}");
}

#[test]
fn work_that_blocks_has_a_thread_and_its_panic_is_an_error() {
    run(async {
        assert_eq!(blocking(|| Ok(7)).await.unwrap(), 7);
        let error = blocking::<()>(|| panic!("as this test wants it")).await.unwrap_err();
        assert_eq!(error.to_string(), "panicked");
        assert_eq!(blocking(|| Ok(8)).await.unwrap(), 8, "the thread lives on");
    });
}

fn buffer_of(byte: u8) -> Rc<glommio::io::DmaBuffer> {
    let mut buffer = glommio::allocate_dma_buffer(4096);
    buffer.as_bytes_mut().fill(byte);
    Rc::new(buffer)
}

fn scratch(name: &str) -> Rc<File> {
    let path = std::env::temp_dir().join(format!("ringmq-reactor-{}-{name}", std::process::id()));
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    std::fs::remove_file(path).unwrap();
    Rc::new(file.unwrap())
}

#[test]
fn transfers_move_bytes_and_report_errors_and_the_end() {
    run(async {
        let file = scratch("transfers");
        assert_eq!(write(file.clone(), buffer_of(5), 4096).await.unwrap(), 4096);
        sync(file.clone()).await.unwrap();
        let (found, size) =
            read(file.clone(), glommio::allocate_dma_buffer(8192), 4096).await.unwrap();
        assert_eq!((size, &found.as_bytes()[..4096]), (4096, &[5; 4096][..]));
        let (_, size) = read(file, glommio::allocate_dma_buffer(4096), 8192).await.unwrap();
        assert_eq!(size, 0, "past the end");
        let directory = Rc::new(File::open(std::env::temp_dir()).unwrap());
        let error = read(directory, glommio::allocate_dma_buffer(4096), 0).await.err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::IsADirectory, "{error}");
    });
}

#[test]
fn a_write_goes_on_when_nobody_waits_for_it() {
    let file = scratch("dropped");
    let written = file.clone();
    run(async move {
        for slot in 0..100 {
            let write = Box::pin(write(written.clone(), buffer_of(slot as u8), slot * 4096));
            // Polled once, then dropped.
            let _ = futures_util::future::select(write, std::future::ready(())).await;
        }
    });
    // The ring is gone, so all transfers are done.
    for slot in 0..100_u64 {
        let mut found = [0; 4096];
        file.read_exact_at(&mut found, slot * 4096).unwrap();
        assert_eq!(found, [slot as u8; 4096]);
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let target = listener.local_addr().unwrap();
    let (accepted, connected) = futures_util::join!(listener.accept(), TcpStream::connect(target));
    (accepted.unwrap(), connected.unwrap())
}

#[test]
fn a_stream_carries_more_than_the_sockets_hold() {
    let received = run(async {
        let (sender, receiver) = pair().await;
        let sent = spawn(async move {
            let bytes: Vec<u8> = (0..8_000_000_u32).map(|index| (index % 251) as u8).collect();
            (&sender).write_all(&bytes).await.unwrap();
        });
        let mut received = Vec::new();
        (&receiver).read_to_end(&mut received).await.unwrap();
        sent.await;
        received
    });
    assert_eq!(received.len(), 8_000_000);
    assert!(received.iter().enumerate().all(|(index, byte)| *byte == (index % 251) as u8));
}

/// An event that is reported while no task waits must not be lost, and neither must the end of a
/// stream that arrives together with its last bytes.
#[test]
fn no_readiness_is_lost() {
    run(async {
        for round in 0..200 {
            let (sender, receiver) = pair().await;
            (&sender).write_all(b"ping").await.unwrap();
            if round % 2 == 0 {
                drop(sender);
                pass().await;
            } else {
                spawn(async move {
                    pass().await;
                    drop(sender);
                })
                .detach();
            }
            let mut received = [0; 64];
            let size = (&receiver).read(&mut received).await.unwrap();
            assert_eq!(&received[..size], b"ping");
            assert_eq!((&receiver).read(&mut received).await.unwrap(), 0, "the end");
        }
    });
}

#[test]
fn a_refused_connection_is_an_error_that_says_so() {
    run(async {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let target = listener.local_addr().unwrap();
        drop(listener);
        let error = TcpStream::connect(target).await.err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_dropped_stream_ends_the_connection_although_it_was_watched() {
    run(async {
        let (mine, theirs) = pair().await;
        let mine = Rc::new(mine);
        let reading = mine.clone();
        let watched = Box::pin(async move { (&*reading).read(&mut [0; 8]).await.map(drop) });
        let _ = futures_util::future::select(watched, std::future::ready(())).await;
        drop(mine);
        assert_eq!((&theirs).read(&mut [0; 8]).await.unwrap(), 0);
    });
}

/// The kernel may be about to report something about a socket that is being closed.
#[test]
fn watches_end_with_their_streams_whatever_is_under_way() {
    run(async {
        sleep(Duration::from_millis(1)).await; // The notifier is watched then.
        let before = current().ring().request_count();
        for round in 0..50 {
            let (mine, theirs) = pair().await;
            let reading = Box::pin(async { (&mine).read(&mut [0; 8]).await.map(drop) });
            let _ = futures_util::future::select(reading, std::future::ready(())).await;
            pass().await;
            (&theirs).write_all(b"late").await.unwrap();
            std::thread::sleep(Duration::from_millis(1));
            if round % 2 == 0 {
                socket::shutdown(mine.as_raw_fd(), socket::Shutdown::Both).unwrap();
            }
            drop(mine);
            // The end, or a reset because something was unread.
            assert_eq!((&theirs).read(&mut [0; 8]).await.unwrap_or(0), 0);
        }
        while current().ring().request_count() > before {
            sleep(Duration::from_millis(1)).await;
        }
    });
}

/// Opening a file is done by the executor itself and takes several passes.
#[test]
fn the_executor_serves_its_own_requests_beside() {
    let took = run(async {
        let begin = Instant::now();
        for _ in 0..10 {
            let file = hosted(glommio::io::BufferedFile::open("/proc/self/stat")).await.unwrap();
            hosted(file.close()).await.unwrap();
        }
        begin.elapsed()
    });
    // Waiting for the executor's own timer would take 100 ms for each of at least 20 requests.
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_task_that_always_runs_does_not_keep_the_executor_from_its_requests() {
    let took = run(async {
        let has_ended = Rc::new(Cell::new(false));
        let ended = has_ended.clone();
        spawn(async move {
            while !ended.get() {
                pass().await;
            }
        })
        .detach();
        let begin = Instant::now();
        for _ in 0..10 {
            let file = hosted(glommio::io::BufferedFile::open("/proc/self/stat")).await.unwrap();
            hosted(file.close()).await.unwrap();
        }
        has_ended.set(true);
        begin.elapsed()
    });
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn background_work_proceeds_beside_a_busy_task_and_is_held_back_by_it() {
    run(async {
        let has_ended = Rc::new(Cell::new(false));
        let ended = has_ended.clone();
        let steps = Rc::new(RefCell::new(Vec::new()));
        let noted = steps.clone();
        let begin = Instant::now();
        spawn(background(async move {
            for _ in 0..20 {
                noted.borrow_mut().push(begin.elapsed());
                while begin.elapsed() - *noted.borrow().last().unwrap() < Duration::from_micros(200)
                {
                }
                pass().await;
            }
            ended.set(true);
        }))
        .detach();
        while !has_ended.get() {
            pass().await;
        }
        // 20 steps of 0.2 ms that get a twentieth of the time.
        assert!(begin.elapsed() > Duration::from_millis(60), "{:?}", begin.elapsed());
        assert_eq!(steps.borrow().len(), 20);
    });
}

#[test]
fn an_idle_thread_gives_background_work_all_of_its_time() {
    let took = run(async {
        let begin = Instant::now();
        let work = spawn(background(async move {
            for _ in 0..20 {
                let step = Instant::now();
                while step.elapsed() < Duration::from_micros(200) {}
                pass().await;
            }
        }));
        work.await;
        begin.elapsed()
    });
    assert!(took < Duration::from_millis(60), "{took:?}");
}

#[test]
fn one_thread_may_run_several_hosts_one_after_another() {
    let (one, other) = (host(), host());
    for host in [&one, &other, &one] {
        assert_eq!(
            host.run(async {
                spawn(async {
                    sleep(Duration::from_millis(1)).await;
                    7
                })
                .await
            }),
            7
        );
    }
}

/// Two hundred tasks are runnable at the same time and together take 40 ms.
#[test]
fn urgent_tasks_run_between_others_however_many_there_are() {
    run(async {
        let file = scratch("urgent");
        let (writes, tasks) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let count = writes.clone();
        spawn_urgent(async move {
            loop {
                write(file.clone(), buffer_of(1), 0).await.unwrap();
                count.set(count.get() + 1);
            }
        });
        for _ in 0..200 {
            let tasks = tasks.clone();
            spawn_later(async move {
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_micros(200) {
                    std::hint::spin_loop();
                }
                tasks.set(tasks.get() + 1);
            })
            .detach();
        }
        let before = writes.get();
        while tasks.get() < 200 {
            pass().await;
        }
        assert!(writes.get() - before >= 5, "{} writes", writes.get() - before);
    });
}
