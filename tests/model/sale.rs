//! The sale of one item as a state machine. A step is a call to a port, or what the lane
//! (`core/engine/worker/lane/mod.rs`) does between two calls.

use flux::core::model::Order;
use stateright::{Model, Property};

use super::ledger::{Condition, Ledger, ORDERS, Orders, Row, Write, WriteResult, members};

/// The guard that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    Nothing,
    /// A commit ignores changes of the item since it was read.
    Version,
    /// Instead of the version, the ledger compares a fencing number at the commit.
    VersionButFenced,
    /// A write ignores that an order is decided.
    Undecided,
    /// A sold-out item is not read again for the next batch.
    SoldOutReread,
    /// A delivery is acknowledged when it is received.
    AckAfterCommit,
}

#[derive(Debug)]
pub struct Sale {
    pub without: Without,
    pub workers: usize,
    pub orders: Vec<Order>,
    /// Initial stocks; one initial state each.
    pub stocks: Vec<u8>,
    /// The most faults in one run.
    pub faults: u8,
    pub restocks: u8,
    /// How often the sale may be closed. It is reopened at any time, or never.
    pub closings: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub ledger: Ledger,
    pub messages: [Message; ORDERS],
    pub workers: Vec<Worker>,
    /// The holder of the lock, as its service knows it.
    lock_holder: Option<usize>,
    /// How often the lock was granted, if grants are numbered.
    lock_grants: u8,
    /// A write whose caller no longer waits. It is applied at any time, or never.
    pub late: Option<Write>,
    faults: u8,
    restocks: u8,
    closings: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Message {
    Unsent,
    Waiting,
    InFlight,
    Acknowledged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Worker {
    waiting: Orders,
    batch: Orders,
    /// The number of the grant of the lock that it believes to hold.
    held: Option<u8>,
    cached: Option<Row>,
    rejects_all: bool,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
enum Step {
    #[default]
    Idle,
    /// Has a batch, and neither holds the lock nor may continue without it.
    Begun,
    Deciding,
    Rejecting,
    /// A commit got no response.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Send(usize),
    Restock,
    Close,
    Open,
    Receive {
        worker: usize,
        order: usize,
    },
    Begin(usize),
    Acquire(usize),
    Read(usize),
    Write(usize),
    Find(usize),
    EndLane(usize),
    /// A lease expires after its holder died or ended.
    LeaseOver,
    /// The worker detects that it lost the lock.
    NoticeLoss(usize),
    Fault(Fault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A redelivery: the visibility timeout passed, or the acknowledgement was lost.
    Redeliver {
        worker: usize,
        order: usize,
    },
    /// The lease expires while it is held, or the lock's service loses it.
    LeaseLost,
    /// The lock's service does not respond: the worker continues without a lock.
    LockAway(usize),
    /// A write gets no response in time. It is applied later, or never.
    LoseWrite(usize),
    ArriveLate,
    Crash(usize),
}

impl Worker {
    fn has(&self, order: usize) -> bool {
        (self.waiting | self.batch) & 1 << order != 0
    }

    pub fn would_commit_on(&self, item: Row) -> bool {
        self.step == Step::Deciding && self.cached == Some(item)
    }
}

impl State {
    fn new(sale: &Sale, stock: u8) -> State {
        State {
            ledger: Ledger::new(Row::new(stock)),
            messages: [Message::Unsent; ORDERS],
            workers: vec![Worker::default(); sale.workers],
            lock_holder: None,
            lock_grants: 0,
            late: None,
            faults: sale.faults,
            restocks: sale.restocks,
            closings: sale.closings,
        }
    }

    /// Acknowledges decided orders of a worker.
    fn complete(&mut self, worker: usize, decided: Orders) {
        self.workers[worker].batch &= !decided;
        for order in members(decided) {
            self.messages[order] = Message::Acknowledged;
        }
    }

    fn unlock(&mut self, worker: usize) {
        self.workers[worker].held = None;
        if self.lock_holder == Some(worker) {
            self.lock_holder = None;
        }
    }

    /// The next step of a worker at the head of the loop of `Lane::decide_all`.
    fn next_step(&mut self, worker: usize, without: Without) {
        let lane = &mut self.workers[worker];
        lane.step = match lane {
            Worker { batch: 0, .. } => Step::Idle,
            Worker { rejects_all: true, cached: Some(_), .. }
                if without == Without::SoldOutReread =>
            {
                Step::Rejecting
            }
            Worker { rejects_all: false, held: Some(_), cached, .. } => {
                if cached.is_some_and(Row::rejects_all) {
                    lane.rejects_all = true;
                    lane.cached = None;
                    lane.step = Step::Begun;
                    return self.unlock(worker);
                }
                Step::Deciding
            }
            _ => Step::Begun,
        };
    }

    /// The actions without faults.
    fn steps(&self, sale: &Sale, actions: &mut Vec<Action>) {
        let unsent = |order: &usize| self.messages[*order] == Message::Unsent;
        actions.extend((0..sale.orders.len()).find(unsent).map(Action::Send));
        if let Some(holder) = self.lock_holder
            && self.workers[holder].held.is_none()
        {
            actions.push(Action::LeaseOver);
        }
        for (worker, lane) in self.workers.iter().enumerate() {
            let is_queued = |order: &usize| self.messages[*order] == Message::Waiting;
            let queued = (0..ORDERS).filter(is_queued);
            actions.extend(queued.map(|order| Action::Receive { worker, order }));
            match lane.step {
                Step::Idle if lane.waiting != 0 => actions.push(Action::Begin(worker)),
                Step::Idle if *lane != Worker::default() => actions.push(Action::EndLane(worker)),
                Step::Idle => {}
                Step::Begun if lane.rejects_all => actions.push(Action::Read(worker)),
                Step::Begun if self.lock_holder.is_none() => actions.push(Action::Acquire(worker)),
                Step::Begun => {}
                Step::Deciding if lane.cached.is_none() => actions.push(Action::Read(worker)),
                Step::Deciding | Step::Rejecting => actions.push(Action::Write(worker)),
                Step::Unknown => actions.push(Action::Find(worker)),
            }
            if lane.step == Step::Idle && lane.held.is_some() && self.lock_holder != Some(worker) {
                actions.push(Action::NoticeLoss(worker));
            }
        }
    }

    fn fault_actions(&self, sale: &Sale, actions: &mut Vec<Action>) {
        let mut faults = Vec::new();
        if self.lock_holder.is_some_and(|holder| self.workers[holder].held.is_some()) {
            faults.push(Fault::LeaseLost);
        }
        for (worker, lane) in self.workers.iter().enumerate() {
            let out = [Message::InFlight, Message::Acknowledged];
            let again = (0..ORDERS).filter(|&o| out.contains(&self.messages[o]) && !lane.has(o));
            faults.extend(again.map(|order| Fault::Redeliver { worker, order }));
            let fenced = sale.without == Without::VersionButFenced;
            if lane.step == Step::Begun && !lane.rejects_all && !fenced {
                faults.push(Fault::LockAway(worker));
            }
            let writes = lane.step == Step::Rejecting
                || lane.step == Step::Deciding && lane.cached.is_some();
            if writes && self.late.is_none() {
                faults.push(Fault::LoseWrite(worker));
            }
            if *lane != Worker::default() {
                faults.push(Fault::Crash(worker));
            }
        }
        actions.extend(faults.into_iter().map(Action::Fault));
    }

    fn read(&mut self, worker: usize) {
        let item = self.ledger.item;
        let lane = &mut self.workers[worker];
        lane.cached = Some(item);
        lane.rejects_all = item.rejects_all();
        if lane.rejects_all {
            lane.step = Step::Rejecting;
            self.unlock(worker);
        }
    }

    fn write_of(&self, worker: usize, sale: &Sale) -> Write {
        let lane = &self.workers[worker];
        let read = lane.cached.expect("read before");
        let (next, decided) = read.decide(&sale.orders, lane.batch);
        let condition = match sale.without {
            _ if lane.step == Step::Rejecting => Condition::EachAlone,
            Without::Version => Condition::Nothing,
            Without::VersionButFenced => Condition::Fence(lane.held.unwrap_or_default()),
            _ => Condition::Version(read.version),
        };
        Write { condition, read, next, decided }
    }

    fn write(&mut self, worker: usize, sale: &Sale) {
        let write = self.write_of(worker, sale);
        let undecided = sale.without != Without::Undecided;
        let answer = self.ledger.apply(&write, &sale.orders, undecided);
        let lane = &mut self.workers[worker];
        match answer {
            WriteResult::Written => {
                let remembered = sale.without == Without::SoldOutReread;
                lane.cached = match lane.step {
                    Step::Rejecting => lane.cached.filter(|_| remembered),
                    _ => Some(write.next),
                };
                self.complete(worker, self.workers[worker].batch);
            }
            WriteResult::Refused { item_changed, decided_before } => {
                lane.cached = lane.cached.filter(|_| !item_changed);
                self.complete(worker, decided_before);
            }
        }
        self.next_step(worker, sale.without);
    }

    fn apply_fault(&mut self, fault: Fault, sale: &Sale) {
        match fault {
            Fault::Redeliver { worker, order } => self.workers[worker].waiting |= 1 << order,
            Fault::LeaseLost => self.lock_holder = None,
            Fault::LockAway(worker) => self.workers[worker].step = Step::Deciding,
            Fault::LoseWrite(worker) => {
                self.late = Some(self.write_of(worker, sale));
                let lane = &mut self.workers[worker];
                lane.cached = None;
                if lane.step == Step::Rejecting {
                    lane.waiting |= std::mem::take(&mut lane.batch);
                    lane.step = Step::Idle;
                } else {
                    lane.step = Step::Unknown;
                }
            }
            Fault::ArriveLate => {}
            Fault::Crash(worker) => {
                let gone = std::mem::take(&mut self.workers[worker]);
                for order in members(gone.waiting | gone.batch) {
                    let elsewhere = self.workers.iter().any(|lane| lane.has(order));
                    if self.messages[order] == Message::InFlight && !elsewhere {
                        self.messages[order] = Message::Waiting;
                    }
                }
            }
        }
    }
}

impl Model for Sale {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.stocks.iter().map(|stock| State::new(self, *stock)).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.steps(self, actions);
        if state.restocks > 0 {
            actions.push(Action::Restock);
        }
        if state.ledger.item.closed {
            actions.push(Action::Open);
        } else if state.closings > 0 {
            actions.push(Action::Close);
        }
        if state.faults > 0 {
            state.fault_actions(self, actions);
        }
        if state.late.is_some() {
            actions.push(Action::Fault(Fault::ArriveLate));
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Send(order) => {
                state.messages[order] = Message::Waiting;
                state.ledger.order_sent(order);
            }
            Action::Restock => {
                state.restocks -= 1;
                state.ledger.restock();
            }
            Action::Close => {
                state.closings -= 1;
                state.ledger.close(true);
            }
            Action::Open => state.ledger.close(false),
            Action::Receive { worker, order } => {
                state.workers[worker].waiting |= 1 << order;
                state.messages[order] = match self.without {
                    Without::AckAfterCommit => Message::Acknowledged,
                    _ => Message::InFlight,
                };
            }
            Action::Begin(worker) => {
                let lane = &mut state.workers[worker];
                lane.batch = std::mem::take(&mut lane.waiting);
                state.next_step(worker, self.without);
            }
            Action::Acquire(worker) => {
                let counts = self.without == Without::VersionButFenced;
                let number = state.lock_grants + u8::from(counts);
                state.lock_holder = Some(worker);
                state.lock_grants = number;
                let lane = &mut state.workers[worker];
                lane.held = Some(number);
                lane.cached = None;
                lane.step = Step::Deciding;
                lane.batch |= std::mem::take(&mut lane.waiting);
            }
            Action::Read(worker) => state.read(worker),
            Action::Write(worker) => state.write(worker, self),
            Action::Find(worker) => {
                let decided = state.ledger.decided_among(state.workers[worker].batch);
                state.complete(worker, decided);
                state.next_step(worker, self.without);
            }
            Action::EndLane(worker) => {
                state.unlock(worker);
                state.workers[worker] = Worker::default();
            }
            Action::LeaseOver => state.lock_holder = None,
            Action::NoticeLoss(worker) => state.workers[worker].held = None,
            Action::Fault(Fault::ArriveLate) => {
                let write = state.late.take().expect("there is one");
                state.ledger.apply(&write, &self.orders, self.without != Without::Undecided);
            }
            Action::Fault(fault) => {
                state.faults -= 1;
                state.apply_fault(fault, self);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        super::promises::all()
    }
}

impl State {
    /// The state with its workers sorted, so that states that differ only by swapping workers are
    /// equal.
    pub fn canonical(&self) -> State {
        let holds = |worker: usize| self.lock_holder == Some(worker);
        let mut named: Vec<_> =
            self.workers.iter().enumerate().map(|(n, worker)| (*worker, holds(n))).collect();
        named.sort_unstable();
        let holder = named.iter().position(|(_, holds)| *holds);
        let workers = named.into_iter().map(|(worker, _)| worker).collect();
        State { workers, lock_holder: holder, ..self.clone() }
    }

    /// True if nothing further happens without faults.
    pub fn is_at_rest(&self, sale: &Sale) -> bool {
        let mut actions = Vec::new();
        self.steps(sale, &mut actions);
        actions.is_empty()
    }

    pub fn is_in_flight(&self, order: usize) -> bool {
        self.workers.iter().any(|worker| worker.has(order))
    }
}
