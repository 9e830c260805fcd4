//! The threads that carry connections: one runtime each, and each connection stays where it begins.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::mpsc;

use crate::connection;
use crate::connection::Route;
use crate::lifecycle::drain::DrainWatch;
use crate::lifecycle::tasks::Tasks;
use crate::listener::Arrival;

/// Arrivals on their way to one worker. A worker takes them in microseconds; when it does not, accepting waits.
const ON_THE_WAY_MAX: usize = 1024;

/// Name lookups at one time, each on a thread of its own; when the resolver is slow, more of them wait in turn.
const LOOKUP_THREADS_MAX: usize = 16;

/// All workers.
pub(super) struct Workers {
    workers: Arc<[Worker]>,
    connections: Tasks,
}

struct Worker {
    arrivals: mpsc::Sender<(Arrival, Arc<Route>, Load)>,
    load: Arc<AtomicUsize>,
}

/// One connection on the books of its worker.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Gives arrivals to workers; clones give to the same ones.
#[derive(Clone)]
pub(super) struct Dispatcher(Arc<[Worker]>);

impl Workers {
    /// Starts the threads; they run until the drain has stopped everything.
    pub(super) fn start(count: NonZeroUsize, drain: &DrainWatch) -> io::Result<Self> {
        let connections = Tasks::new();
        let workers: io::Result<Vec<Worker>> =
            (0..count.get()).map(|index| start_worker(index, connections.clone(), drain.clone())).collect();
        Ok(Self { workers: workers?.into(), connections })
    }

    pub(super) fn hand(&self) -> Dispatcher {
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
    /// Gives `arrival` to the worker with the fewest connections: they live long, and their number is their weight.
    pub(super) async fn give(&self, arrival: Arrival, route: &Arc<Route>) {
        let Some(worker) = self.0.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed)) else { return };
        worker.load.fetch_add(1, Ordering::Relaxed);
        let load = Load(Arc::clone(&worker.load));
        if worker.arrivals.send((arrival, Arc::clone(route), load)).await.is_err() {
            // Never the lightest again, so that nobody else is given to it.
            worker.load.store(usize::MAX / 2, Ordering::Relaxed);
            tracing::error!(listener = route.listener, "a worker is gone; its connection is dropped");
        }
    }
}

fn start_worker(index: usize, connections: Tasks, drain: DrainWatch) -> io::Result<Worker> {
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(LOOKUP_THREADS_MAX).build()?;
    let (arrivals, mut inbox) = mpsc::channel::<(Arrival, Arc<Route>, Load)>(ON_THE_WAY_MAX);
    let load = Arc::<AtomicUsize>::default();
    let work = async move {
        let serving = async {
            while let Some((arrival, route, load)) = inbox.recv().await {
                connections.spawn("connection", async move {
                    let _load = load;
                    connection::serve(arrival, route).await;
                });
            }
        };
        tokio::select! {
            () = serving => {}
            () = drain.stopped() => {}
        }
        // The connections see the stop themselves; they need this thread to say goodbye.
        connections.wait().await;
    };
    thread::Builder::new().name(format!("worker-{index}")).spawn(move || runtime.block_on(work))?;
    Ok(Worker { arrivals, load })
}
