//! The thread for work that blocks.

use std::cell::RefCell;
use std::io;

/// Maximum number of jobs that wait. Callers are few, and each waits for its result.
const JOBS_MAX: usize = 1024;

pub type Job = Box<dyn FnOnce() + Send>;

/// The helper thread, which is started when it is first needed.
#[derive(Default)]
pub struct Helper(RefCell<Option<flume::Sender<Job>>>);

impl Helper {
    pub fn jobs(&self) -> io::Result<flume::Sender<Job>> {
        if let Some(jobs) = &*self.0.borrow() {
            return Ok(jobs.clone());
        }
        let (jobs, todo) = flume::bounded::<Job>(JOBS_MAX);
        std::thread::Builder::new()
            .name("blocking".into())
            .spawn(move || todo.into_iter().for_each(|job| job()))?;
        Ok(self.0.borrow_mut().insert(jobs).clone())
    }

    /// Ends the thread once it has done its queued jobs.
    pub fn end(&self) {
        self.0.take();
    }
}
