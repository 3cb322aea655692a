//! The simulated services keep the contracts that the real adapters keep.

use std::sync::Arc;

use super::process::Process;
use super::scripted::{VISIBILITY, calm};
use super::store::Backend;
use crate::conformance::{lock, queue};

fn queue_bench(backend: Backend) -> queue::Bench {
    let store = calm(backend);
    let ports = store.ports(&Process::new(&store.world, "process".to_owned()), true);
    queue::Bench { queue: ports.queue, names: ports.order_ids, visibility: VISIBILITY }
}

mod standard_queue {
    async fn bench() -> super::queue::Bench {
        super::queue_bench(super::Backend::Standard)
    }
    super::queue::queue_contract!(bench);
}

mod fifo_queue {
    async fn bench() -> super::queue::Bench {
        super::queue_bench(super::Backend::Fifo)
    }
    super::queue::queue_contract!(bench);
}

mod embedded_queue {
    async fn bench() -> super::queue::Bench {
        super::queue_bench(super::Backend::Embedded)
    }
    super::queue::queue_contract!(bench);
}

mod lock_in_redis {
    async fn bench() -> super::lock::Bench {
        let store = super::calm(super::Backend::Standard);
        let process = super::Process::new(&store.world, "process".to_owned());
        let lock: super::Arc<dyn flux::core::ports::lock::Lock> =
            super::Arc::new(crate::simulation::lock::SimRedis { process, store });
        super::lock::Bench { lock }
    }
    super::lock::lock_contract!(bench);
}
