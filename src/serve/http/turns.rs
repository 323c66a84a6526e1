//! Fair queue for password verification.
//!
//! Verification is slow by design and done one at a time, so that it uses at most one CPU. Peers take turns: one that
//! sends a hundred passwords waits a hundred turns, any other waits one of its own. Peers whose last password was wrong
//! wait until no others do, so attackers with many addresses get one verification each before that.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::connections::Peer;
use crate::serve::sync::lock;

/// Number of waiting passwords per peer: its number of connections, so that clients behind one address do not block
/// each other.
const MAX_OF_PEER: usize = 64;

/// Number of peers remembered for a wrong password; beyond that all are forgotten.
const MAX_WRONG: usize = 16_384;

/// Peers in the order of their turns, each with its waiting requests.
type Queue = VecDeque<(Peer, VecDeque<oneshot::Sender<Turn>>)>;

#[derive(Debug, Default)]
struct State {
    taken: bool,
    waiting: Queue,
    /// Peers whose last password was wrong, after all others.
    waiting_again: Queue,
    wrong: BTreeSet<Peer>,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<State>);

/// A turn, which ends on drop.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

impl Turns {
    /// Waits for a turn of this peer. `None`: too many of its requests wait already.
    pub(crate) async fn turn(self: &Arc<Self>, peer: Peer) -> Option<Turn> {
        let turn = self.join(peer)?;
        turn.await.ok()
    }

    fn join(self: &Arc<Self>, peer: Peer) -> Option<oneshot::Receiver<Turn>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = lock(&self.0);
        if !state.taken {
            state.taken = true;
            drop(state);
            let _ = sender.send(Turn(Arc::clone(self)));
            return Some(receiver);
        }
        let queue = if state.wrong.contains(&peer) { &mut state.waiting_again } else { &mut state.waiting };
        match queue.iter_mut().find(|(waiting, _)| *waiting == peer) {
            Some((_, mine)) => {
                mine.retain(|sender| !sender.is_closed());
                if mine.len() >= MAX_OF_PEER {
                    return None;
                }
                mine.push_back(sender);
            }
            None => queue.push_back((peer, [sender].into())),
        }
        Some(receiver)
    }

    /// The next request; its peer moves to the end of the queue if it has more.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut state = lock(&self.0);
        let next = first(&mut state.waiting).or_else(|| first(&mut state.waiting_again));
        state.taken = next.is_some();
        next
    }

    /// Records whether a peer's password was right.
    pub(crate) fn remember(&self, peer: Peer, right: bool) {
        let mut state = lock(&self.0);
        if right {
            state.wrong.remove(&peer);
            return;
        }
        if state.wrong.len() >= MAX_WRONG {
            state.wrong.clear();
        }
        state.wrong.insert(peer);
    }

    fn pass_on(self: &Arc<Self>) {
        if let Some(sender) = self.next() {
            // If the receiver is gone, dropping the turn passes it on.
            drop(sender.send(Turn(Arc::clone(self))));
        }
    }
}

/// The first waiting request of a queue that has not been cancelled. A cancelled one does not cost its peer the turn,
/// but may delay it.
fn first(queue: &mut Queue) -> Option<oneshot::Sender<Turn>> {
    loop {
        let (peer, mut senders) = queue.pop_front()?;
        let sender = senders.pop_front();
        if !senders.is_empty() {
            queue.push_back((peer, senders));
        }
        if let Some(sender) = sender.filter(|sender| !sender.is_closed()) {
            return Some(sender);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clients that get their turns, in order, if no other arrives.
    fn order(waiting: &mut Vec<(u32, oneshot::Receiver<Turn>)>) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some(at) = waiting.iter_mut().position(|(_, receiver)| !receiver.is_empty()) {
            let (who, mut receiver) = waiting.remove(at);
            order.push(who);
            drop(receiver.try_recv());
        }
        order
    }

    #[test]
    fn peers_take_turns() {
        let turns = Arc::new(Turns::default());
        let join = |peer: u32| Some((peer, turns.join(Peer::V4(peer))?));
        let mut waiting: Vec<_> = [1, 1, 1, 1, 2, 1, 3, 2].into_iter().filter_map(join).collect();
        assert!(!waiting[0].1.is_empty() && waiting[1].1.is_empty(), "the first of all does not wait");
        assert_eq!(order(&mut waiting), [1, 1, 2, 3, 1, 2, 1, 1]);
        assert!(waiting.is_empty() && !join(1).unwrap().1.is_empty(), "free again");
    }

    #[test]
    fn who_was_wrong_waits_for_those_who_were_not() {
        let turns = Arc::new(Turns::default());
        let join = |peer: u32| (peer, turns.join(Peer::V4(peer)).unwrap());
        for wrong in [1, 2, 3] {
            turns.remember(Peer::V4(wrong), false);
        }
        turns.remember(Peer::V4(3), true);
        let mut waiting: Vec<_> = [1, 1, 2, 3, 4].into_iter().map(join).collect();
        assert_eq!(order(&mut waiting), [1, 3, 4, 1, 2]);
    }

    #[test]
    fn who_goes_away_keeps_nobody_from_his_turn() {
        let turns = Arc::new(Turns::default());
        let join = |peer: u32| turns.join(Peer::V4(peer)).unwrap();
        let (mut first, second, third, mut fourth) = (join(1), join(2), join(2), join(3));
        drop((second, third));
        drop(first.try_recv());
        let turn = fourth.try_recv().unwrap();
        let waiting: Vec<_> = (0..MAX_OF_PEER).map(|_| join(1)).collect();
        assert!(turns.join(Peer::V4(1)).is_none() && turns.join(Peer::V4(4)).is_some());
        drop(waiting);
        assert!(turns.join(Peer::V4(1)).is_some(), "places of those who have gone are free");
        drop(turn);
        assert!(!lock(&turns.0).taken);
    }
}
