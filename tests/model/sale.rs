//! The sale of one item as a state machine: what `core/engine/worker/lane.rs` does between two
//! calls to a port is one step, and so is each call.

use flux::core::model::Order;
use stateright::{Model, Property};

use super::ledger::{Answer, Condition, Ledger, ORDERS, Orders, Row, Write, members};

/// The guard that is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    Nothing,
    /// A commit does not mind what happened to the item since it was read.
    Version,
    /// A fencing number, compared by the ledger at the commit, takes the version's place.
    VersionButFenced,
    /// A write does not mind that an order has its decision.
    Unseen,
    /// "Sold out" is remembered from batch to batch.
    SoldOutReadAnew,
    /// A delivery is acknowledged when it is received.
    AckAfterCommit,
}

#[derive(Debug)]
pub struct Sale {
    pub without: Without,
    pub workers: usize,
    pub orders: Vec<Order>,
    /// A run for each.
    pub stocks: Vec<u8>,
    /// Faults in one run, of whatever kind.
    pub faults: u8,
    pub restocks: u8,
    /// How often the sale may be closed. It is opened again at any time, or never.
    pub closings: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub ledger: Ledger,
    pub messages: [Message; ORDERS],
    pub workers: Vec<Worker>,
    /// Who has the lock, as its service knows it, and how often it was granted (if that counts).
    lock: (Option<usize>, u8),
    /// A write whose answer nobody waits for any more. It may arrive at any time, or never.
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
    line: Orders,
    batch: Orders,
    /// The number under which it was granted the lock, which it believes to have.
    held: Option<u8>,
    known: Option<Row>,
    rejects_all: bool,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
enum Step {
    #[default]
    Idle,
    /// Has a batch, and neither lock nor leave to go without.
    Begun,
    Deciding,
    Rejecting,
    /// A commit's answer did not come.
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
    /// A lease whose holder is gone runs out.
    LeaseOver,
    /// The worker finds out that it lost the lock.
    NoticeLoss(usize),
    Fault(Fault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Delivered again: the visibility timeout passed, or the acknowledgement was lost.
    Redeliver {
        worker: usize,
        order: usize,
    },
    /// The lease runs out under its holder, or the lock's service forgets it.
    LeaseLost,
    /// The lock's service does not answer: the worker goes on without.
    LockAway(usize),
    /// A write gets no answer in time; it may be applied later, or never.
    LoseWrite(usize),
    ArriveLate,
    Crash(usize),
}

impl Worker {
    fn has(&self, order: usize) -> bool {
        (self.line | self.batch) & 1 << order != 0
    }

    pub fn would_commit_on(&self, item: Row) -> bool {
        self.step == Step::Deciding && self.known == Some(item)
    }
}

impl State {
    fn new(sale: &Sale, stock: u8) -> State {
        State {
            ledger: Ledger::new(Row::new(stock)),
            messages: [Message::Unsent; ORDERS],
            workers: vec![Worker::default(); sale.workers],
            lock: (None, 0),
            late: None,
            faults: sale.faults,
            restocks: sale.restocks,
            closings: sale.closings,
        }
    }

    /// These orders of the worker are decided.
    fn settle(&mut self, worker: usize, decided: Orders) {
        self.workers[worker].batch &= !decided;
        for order in members(decided) {
            self.messages[order] = Message::Acknowledged;
        }
    }

    fn unlock(&mut self, worker: usize) {
        self.workers[worker].held = None;
        if self.lock.0 == Some(worker) {
            self.lock.0 = None;
        }
    }

    /// Where a worker stands that has come back to the head of `Lane::decide_all`'s loop.
    fn loop_on(&mut self, worker: usize, without: Without) {
        let lane = &mut self.workers[worker];
        lane.step = match lane {
            Worker { batch: 0, .. } => Step::Idle,
            Worker { rejects_all: true, known: Some(_), .. }
                if without == Without::SoldOutReadAnew =>
            {
                Step::Rejecting
            }
            Worker { rejects_all: false, held: Some(_), known, .. } => {
                if known.is_some_and(Row::rejects_all) {
                    lane.rejects_all = true;
                    lane.known = None;
                    lane.step = Step::Begun;
                    return self.unlock(worker);
                }
                Step::Deciding
            }
            _ => Step::Begun,
        };
    }

    /// What can happen without anything going wrong.
    fn courses(&self, sale: &Sale, actions: &mut Vec<Action>) {
        let unsent = |order: &usize| self.messages[*order] == Message::Unsent;
        actions.extend((0..sale.orders.len()).find(unsent).map(Action::Send));
        if let Some(holder) = self.lock.0
            && self.workers[holder].held.is_none()
        {
            actions.push(Action::LeaseOver);
        }
        for (worker, lane) in self.workers.iter().enumerate() {
            let waits = |order: &usize| self.messages[*order] == Message::Waiting;
            let waiting = (0..ORDERS).filter(waits);
            actions.extend(waiting.map(|order| Action::Receive { worker, order }));
            match lane.step {
                Step::Idle if lane.line != 0 => actions.push(Action::Begin(worker)),
                Step::Idle if *lane != Worker::default() => actions.push(Action::EndLane(worker)),
                Step::Idle => {}
                Step::Begun if lane.rejects_all => actions.push(Action::Read(worker)),
                Step::Begun if self.lock.0.is_none() => actions.push(Action::Acquire(worker)),
                Step::Begun => {}
                Step::Deciding if lane.known.is_none() => actions.push(Action::Read(worker)),
                Step::Deciding | Step::Rejecting => actions.push(Action::Write(worker)),
                Step::Unknown => actions.push(Action::Find(worker)),
            }
            if lane.step == Step::Idle && lane.held.is_some() && self.lock.0 != Some(worker) {
                actions.push(Action::NoticeLoss(worker));
            }
        }
    }

    fn mishaps(&self, sale: &Sale, actions: &mut Vec<Action>) {
        let mut faults = Vec::new();
        if self.lock.0.is_some_and(|holder| self.workers[holder].held.is_some()) {
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
            let writes =
                lane.step == Step::Rejecting || lane.step == Step::Deciding && lane.known.is_some();
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
        lane.known = Some(item);
        lane.rejects_all = item.rejects_all();
        if lane.rejects_all {
            lane.step = Step::Rejecting;
            self.unlock(worker);
        }
    }

    fn write_of(&self, worker: usize, sale: &Sale) -> Write {
        let lane = &self.workers[worker];
        let read = lane.known.expect("read before");
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
        let unseen = sale.without != Without::Unseen;
        let answer = self.ledger.apply(&write, &sale.orders, unseen);
        let lane = &mut self.workers[worker];
        match answer {
            Answer::Written => {
                let remembered = sale.without == Without::SoldOutReadAnew;
                lane.known = match lane.step {
                    Step::Rejecting => lane.known.filter(|_| remembered),
                    _ => Some(write.next),
                };
                self.settle(worker, self.workers[worker].batch);
            }
            Answer::Refused { item_changed, decided_before } => {
                lane.known = lane.known.filter(|_| !item_changed);
                self.settle(worker, decided_before);
            }
        }
        self.loop_on(worker, sale.without);
    }

    fn strike(&mut self, fault: Fault, sale: &Sale) {
        match fault {
            Fault::Redeliver { worker, order } => self.workers[worker].line |= 1 << order,
            Fault::LeaseLost => self.lock.0 = None,
            Fault::LockAway(worker) => self.workers[worker].step = Step::Deciding,
            Fault::LoseWrite(worker) => {
                self.late = Some(self.write_of(worker, sale));
                let lane = &mut self.workers[worker];
                lane.known = None;
                if lane.step == Step::Rejecting {
                    lane.line |= std::mem::take(&mut lane.batch);
                    lane.step = Step::Idle;
                } else {
                    lane.step = Step::Unknown;
                }
            }
            Fault::ArriveLate => {}
            Fault::Crash(worker) => {
                let gone = std::mem::take(&mut self.workers[worker]);
                for order in members(gone.line | gone.batch) {
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
        state.courses(self, actions);
        if state.restocks > 0 {
            actions.push(Action::Restock);
        }
        if state.ledger.item.closed {
            actions.push(Action::Open);
        } else if state.closings > 0 {
            actions.push(Action::Close);
        }
        if state.faults > 0 {
            state.mishaps(self, actions);
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
                state.ledger.expect(order);
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
                state.workers[worker].line |= 1 << order;
                state.messages[order] = match self.without {
                    Without::AckAfterCommit => Message::Acknowledged,
                    _ => Message::InFlight,
                };
            }
            Action::Begin(worker) => {
                let lane = &mut state.workers[worker];
                lane.batch = std::mem::take(&mut lane.line);
                state.loop_on(worker, self.without);
            }
            Action::Acquire(worker) => {
                let counts = self.without == Without::VersionButFenced;
                let number = state.lock.1 + u8::from(counts);
                state.lock = (Some(worker), number);
                let lane = &mut state.workers[worker];
                (lane.held, lane.known, lane.step) = (Some(number), None, Step::Deciding);
                lane.batch |= std::mem::take(&mut lane.line);
            }
            Action::Read(worker) => state.read(worker),
            Action::Write(worker) => state.write(worker, self),
            Action::Find(worker) => {
                let decided = state.ledger.decided_among(state.workers[worker].batch);
                state.settle(worker, decided);
                state.loop_on(worker, self.without);
            }
            Action::EndLane(worker) => {
                state.unlock(worker);
                state.workers[worker] = Worker::default();
            }
            Action::LeaseOver => state.lock.0 = None,
            Action::NoticeLoss(worker) => state.workers[worker].held = None,
            Action::Fault(Fault::ArriveLate) => {
                let write = state.late.take().expect("there is one");
                state.ledger.apply(&write, &self.orders, self.without != Without::Unseen);
            }
            Action::Fault(fault) => {
                state.faults -= 1;
                state.strike(fault, self);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        super::promises::all()
    }
}

impl State {
    /// The same but for the workers' names.
    pub fn nameless(&self) -> State {
        let holds = |worker: usize| self.lock.0 == Some(worker);
        let mut named: Vec<_> =
            self.workers.iter().enumerate().map(|(n, worker)| (*worker, holds(n))).collect();
        named.sort_unstable();
        let holder = named.iter().position(|(_, holds)| *holds);
        let workers = named.into_iter().map(|(worker, _)| worker).collect();
        State { workers, lock: (holder, self.lock.1), ..self.clone() }
    }

    /// Whether nothing will happen any more of itself.
    pub fn is_at_rest(&self, sale: &Sale) -> bool {
        let mut actions = Vec::new();
        self.courses(sale, &mut actions);
        actions.is_empty()
    }

    pub fn is_with_somebody(&self, order: usize) -> bool {
        self.workers.iter().any(|worker| worker.has(order))
    }
}
