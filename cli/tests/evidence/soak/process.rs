//! Processes that are started again whenever they end, and their orders and answers.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// One of the processes, in all its lives.
pub(super) struct Process {
    pub(super) number: usize,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    /// The server and the stores, for the first line of input of each life.
    world: String,
    state: Mutex<State>,
    started: Condvar,
    /// Called when a life ends that should not have ended.
    ended: Box<dyn Fn(&str) + Send + Sync>,
}

#[derive(Default)]
struct State {
    life: u32,
    child: Option<Child>,
    input: Option<ChildStdin>,
    /// The callers that wait, by the number of their order.
    waiting: HashMap<u64, Sender<String>>,
    orders: u64,
    expected: bool,
    last: bool,
}

impl Process {
    pub(super) fn start(
        number: usize,
        world: String,
        command: impl Fn() -> Command + Send + Sync + 'static,
        ended: impl Fn(&str) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let process = Arc::new(Self {
            number,
            command: Box::new(command),
            world,
            state: Mutex::default(),
            started: Condvar::new(),
            ended: Box::new(ended),
        });
        process.live(&mut process.state());
        process
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn live(self: &Arc<Self>, state: &mut State) {
        state.life += 1;
        state.expected = false;
        let mut child = (self.command)()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the process starts");
        let mut input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let first = format!("{}.{}\t{}\n", self.number, state.life, self.world);
        input.write_all(first.as_bytes()).expect("the process runs");
        (state.child, state.input) = (Some(child), Some(input));
        self.started.notify_all();
        let process = self.clone();
        thread::spawn(move || {
            for line in output.lines() {
                let line = line.unwrap();
                let (order, answer) = line.split_once(' ').unwrap();
                let waiting = process.state().waiting.remove(&order.parse().unwrap());
                if let Some(waiting) = waiting {
                    let _ = waiting.send(answer.to_owned());
                }
            }
            process.die();
        });
    }

    /// Handles the end of a life. The output of the process has ended.
    fn die(self: &Arc<Self>) {
        let mut state = self.state();
        state.input = None;
        let status = state.child.take().unwrap().wait().unwrap();
        if !state.expected {
            (self.ended)(&format!("process {}.{} ended: {status}", self.number, state.life));
        }
        // The callers that wait now get no answer.
        state.waiting.clear();
        if !state.last {
            self.live(&mut state);
        }
    }

    /// Gives an order. There is no answer if the process dies.
    pub(super) fn order(&self, order: &str) -> Receiver<String> {
        let (answer, receiver) = mpsc::channel();
        let mut state = self.state();
        // Wait if the process is about to be started again.
        while state.input.is_none() && !state.last {
            state = self.started.wait_timeout(state, Duration::from_secs(1)).unwrap().0;
        }
        state.orders += 1;
        let number = state.orders;
        let Some(input) = &mut state.input else { return receiver };
        if input.write_all(format!("{number} {order}\n").as_bytes()).is_ok() {
            state.waiting.insert(number, answer);
        }
        receiver
    }

    pub(super) fn life(&self) -> u32 {
        self.state().life
    }

    /// Kills the process with SIGKILL, if it is still in this life.
    pub(super) fn kill(&self, life: u32) {
        let mut state = self.state();
        if state.life == life && state.child.is_some() {
            state.expected = true;
            let _ = state.child.as_mut().unwrap().kill();
        }
    }

    /// Ends the process normally. With `last`, it is not started again.
    pub(super) fn end(&self, last: bool) {
        let mut state = self.state();
        state.expected = true;
        state.last |= last;
        state.input = None;
    }

    pub(super) fn pid(&self) -> u32 {
        self.state().child.as_ref().map_or(0, Child::id)
    }
}
