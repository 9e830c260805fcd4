//! The threads that serve connections. Each one has its own runtime, and a connection stays on the thread where it
//! starts.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

use super::messages::WORKER_STOPPED;
use crate::connection;
use crate::connection::Route;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::tasks::Tasks;
use crate::listener::Arrival;

/// New connections that wait for one worker. A worker takes them within microseconds; if it does not, accepting waits.
const QUEUED_ARRIVALS_MAX: usize = 1024;

/// Name lookups that a worker makes at the same time, each on its own thread. With a slow resolver, more lookups wait.
const LOOKUP_THREADS_MAX: usize = 16;

/// All workers.
pub(super) struct Workers {
    workers: Arc<[Worker]>,
    connections: Tasks,
}

struct Worker {
    jobs: mpsc::Sender<Job>,
    /// The number of its connections.
    load: Arc<AtomicUsize>,
}

/// What a worker is asked to do.
enum Job {
    /// Serve a connection.
    Serve(Arrival, Arc<Route>, CountedLoad),
    /// Show that the thread makes progress.
    Answer(oneshot::Sender<()>),
}

/// One connection in the load of its worker, until this is dropped.
struct CountedLoad(Arc<AtomicUsize>);

impl Drop for CountedLoad {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Distributes new connections to the workers. Clones use the same workers.
#[derive(Clone)]
pub(super) struct Dispatcher(Arc<[Worker]>);

impl Workers {
    /// Starts the threads. They run until the drain is over and all connections have ended.
    pub(super) fn start(count: NonZeroUsize, drain: &DrainWatch) -> io::Result<Self> {
        let connections = Tasks::new();
        let workers: io::Result<Vec<Worker>> =
            (0..count.get()).map(|index| start_worker(index, connections.clone(), drain.clone())).collect();
        Ok(Self { workers: workers?.into(), connections })
    }

    pub(super) fn dispatcher(&self) -> Dispatcher {
        Dispatcher(Arc::clone(&self.workers))
    }

    pub(super) fn count(&self) -> usize {
        self.workers.len()
    }

    /// The tasks of all connections on all workers.
    pub(super) fn connections(&self) -> Tasks {
        self.connections.clone()
    }
}

impl Dispatcher {
    /// Gives `arrival` to the worker with the fewest connections. Connections live long, so their number is a good
    /// measure of the load.
    pub(super) async fn dispatch(&self, arrival: Arrival, route: &Arc<Route>) {
        let Some(worker) = self.0.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed)) else { return };
        worker.load.fetch_add(1, Ordering::Relaxed);
        let load = CountedLoad(Arc::clone(&worker.load));
        if worker.jobs.send(Job::Serve(arrival, Arc::clone(route), load)).await.is_err() {
            // Never the smallest load again, so that this worker gets no further connection.
            worker.load.store(usize::MAX / 2, Ordering::Relaxed);
            tracing::error!(listener = route.listener(), "{WORKER_STOPPED}");
        }
    }
}

impl Dispatcher {
    /// Waits until every worker has answered. Returns whether all have; a thread that has ended does not, and a thread
    /// that is blocked makes this wait. Cancel safe.
    pub(super) async fn all_answer(&self) -> bool {
        for worker in self.0.iter() {
            let (answer, answered) = oneshot::channel();
            if worker.jobs.send(Job::Answer(answer)).await.is_err() || answered.await.is_err() {
                return false;
            }
        }
        true
    }
}

fn start_worker(index: usize, connections: Tasks, drain: DrainWatch) -> io::Result<Worker> {
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(LOOKUP_THREADS_MAX).build()?;
    let (jobs, mut queue) = mpsc::channel::<Job>(QUEUED_ARRIVALS_MAX);
    let load = Arc::<AtomicUsize>::default();
    let work = async move {
        let serving = async {
            while let Some(job) = queue.recv().await {
                match job {
                    Job::Serve(arrival, route, load) => connections.spawn("connection", async move {
                        let _load = load;
                        connection::serve(arrival, route).await;
                    }),
                    // The receiver may have given up.
                    Job::Answer(answer) => drop(answer.send(())),
                }
            }
        };
        tokio::select! {
            () = serving => {}
            () = drain.stopped() => {}
        }
        // The connections end by themselves; they need this thread to send close_notify.
        connections.wait().await;
    };
    thread::Builder::new().name(format!("worker-{index}")).spawn(move || runtime.block_on(work))?;
    Ok(Worker { jobs, load })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lifecycle::drain::Drain;

    #[tokio::test]
    async fn workers_answer_unless_one_is_blocked_or_has_ended() {
        let drain = Drain::new();
        let workers = Workers::start(NonZeroUsize::new(2).unwrap(), &drain.watch()).unwrap();
        assert!(workers.dispatcher().all_answer().await);
        let (jobs, queue) = mpsc::channel(1);
        let blocked = Dispatcher(Arc::new([Worker { jobs, load: Arc::default() }]));
        let answered = tokio::time::timeout(Duration::from_millis(50), blocked.all_answer()).await;
        assert!(answered.is_err(), "the worker reads no job");
        drop(queue);
        assert!(!blocked.all_answer().await);
        drain.stop();
        workers.connections().close();
    }
}
