//! An executor for measurements that is nudged as a broker's shards are. Without, it goes to sleep now
//! and then although work is left (`shard::nudge` says why), and a lone writer's rate then shows how
//! long it slept. Other benches include this file as a module.

use std::future::Future;

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use ringmq::shard::nudge::{Nudger, Pulse};

/// Runs `measure` to its end. It must beat the pulse whenever it has done something.
pub fn run<F, T>(io_memory: usize, measure: impl FnOnce(Pulse) -> F + Send + 'static) -> T
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let nudger = Nudger::start(1).expect("a thread");
    let pulse = nudger.pulse(0);
    LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(io_memory)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .spawn(move || async move {
            let listener = glommio::spawn_local(pulse.clone().listen());
            let measured = measure(pulse.clone()).await;
            pulse.leave();
            listener.await;
            measured
        })
        .expect("an executor; see `ringmq check`")
        .join()
        .expect("the measurement ends")
}
