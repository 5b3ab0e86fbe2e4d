//! An executor for measurements and tests, nudged like a broker's shards. Without nudges it sometimes
//! sleeps although there is work (see `shard::nudge`), and the rate of a single writer would measure
//! that sleep. Other benches include this file as a module.

use std::future::Future;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use ringmq::shard::executor;
use ringmq::shard::nudge::{Nudger, Pulse};

/// Runs `measure` to completion. `measure` must beat the pulse whenever it makes progress.
pub fn run<F, T>(io_memory: usize, measure: impl FnOnce(Pulse) -> F + Send + 'static) -> T
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let nudger = Nudger::start(1).expect("a thread");
    let pulse = nudger.pulse(0);
    let builder = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(io_memory)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1));
    let starting = executor::start("measurement", builder, Duration::ZERO, pulse, measure);
    let executor = starting.and_then(executor::Starting::begin).expect("an executor");
    executor.join().expect("the measurement ends")
}
