//! Frames in any pieces; channels that are full, broken or closed.

use super::fuzzing::{Frame, MAX, read};
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::os::fd::AsFd;

fn envelope(kind: u32) -> Envelope {
    Envelope { purpose: Purpose::Message, from: 1.into(), to: 2.into(), kind, request: 0 }
}

fn send(channel: &mut Channel, kind: u32, bytes: &[u8]) -> Result<(), Undelivered> {
    channel.outbox.send(channel.socket.as_fd(), &envelope(kind), bytes, Room::Needed)
}

fn notify(channel: &mut Channel, notice: &Notice) -> Result<(), Undelivered> {
    channel.outbox.notify(channel.socket.as_fd(), notice)
}

/// The next frame of a channel, owned; `None` if there is none now.
fn receive(channel: &mut Channel) -> Option<Frame> {
    match channel.inbox.receive(channel.socket.as_fd(), &mut Budget::new(usize::MAX, usize::MAX)).unwrap() {
        Received::Notice(notice) => Some(Frame::Notice(notice)),
        Received::Message(envelope, bytes) => Some(Frame::Message(envelope, bytes.into_owned())),
        _ => None,
    }
}

fn notice() -> impl Strategy<Value = Notice> {
    prop_oneof![
        (any::<u8>(), any::<u32>()).prop_map(|(kind, limit)| Notice::Ready { kind, limit }),
        ".{0,200}".prop_map(Notice::Failed),
        Just(Notice::Online),
        Just(Notice::Leaving),
        Just(Notice::GaveBack),
        Just(Notice::TakeIn),
        Just(Notice::RestoreStderr),
        any::<(bool, u32)>().prop_map(|(hand_back, patience)| Notice::Drain { hand_back, patience }),
        any::<u32>().prop_map(|id| Notice::Gone(WorkerId(id))),
        any::<u32>().prop_map(|keep| Notice::Shed { keep }),
        any::<u32>().prop_map(Notice::Settled),
        any::<(u32, u32)>().prop_map(|(id, count)| Notice::TookOver { giver: WorkerId(id), count }),
        any::<u32>().prop_map(|id| Notice::Overflowing(WorkerId(id))),
        any::<u32>().prop_map(|id| Notice::HasRoom(WorkerId(id))),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..300), (any::<u8>(), 0..=MAX).prop_map(|(b, n)| vec![b; n])]
}

fn frame() -> impl Strategy<Value = Frame> {
    let purposes = [Purpose::Message, Purpose::Request, Purpose::Reply, Purpose::Failure];
    let envelope =
        (0..4usize, any::<[u32; 3]>(), any::<u64>()).prop_map(move |(p, [from, to, kind], request)| {
            Envelope { purpose: purposes[p], from: from.into(), to: to.into(), kind, request }
        });
    prop_oneof![notice().prop_map(Frame::Notice), (envelope, bytes()).prop_map(|(e, b)| Frame::Message(e, b))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn however_bytes_are_cut_the_frames_are_those_that_were_sent(
        frames in vec(frame(), 0..12),
        step in prop_oneof![1..100usize, 1..100_000usize],
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let (found, fault) = read(&bytes, step);
        prop_assert!(!fault);
        prop_assert_eq!(found, frames);
    }

    #[test]
    fn random_bytes_make_the_same_of_it_in_any_pieces(
        start in vec(frame(), 0..4),
        noise in vec(any::<u8>(), 0..400),
    ) {
        let mut bytes: Vec<u8> = start.iter().flat_map(Frame::encode).collect();
        bytes.extend(noise);
        super::fuzzing::frames(&bytes);
    }

    /// What is sent with a full socket arrives in its order and unchanged, whatever the sizes.
    #[test]
    fn a_channel_keeps_the_order(sizes in vec(prop_oneof![0..200usize, 0..=MAX], 1..60)) {
        let (mut one, mut other) = channel(MAX).unwrap();
        let mut expected = std::collections::VecDeque::new();
        for (kind, size) in (0..).zip(&sizes) {
            let bytes = vec![kind as u8; *size];
            let sent = if kind % 3 == 0 {
                let room = one.outbox.has_room(bytes.len());
                room.then(|| one.outbox.add_shared(&envelope(kind), std::rc::Rc::new(bytes.clone())))
                    .ok_or(Undelivered::Full)
            } else {
                send(&mut one, kind, &bytes)
            };
            match sent {
                Ok(()) => expected.push_back(Frame::Message(envelope(kind), bytes)),
                Err(e) => prop_assert_eq!(e, Undelivered::Full),
            }
            if let Some(found) = (kind % 7 == 6).then(|| receive(&mut other)).flatten() {
                prop_assert_eq!(Some(found), expected.pop_front());
            }
        }
        while let Some(expected) = expected.pop_front() {
            one.outbox.flush(one.socket.as_fd(), 10_000).unwrap();
            loop {
                match receive(&mut other) {
                    Some(found) => { prop_assert_eq!(&found, &expected); break }
                    None => { one.outbox.flush(one.socket.as_fd(), usize::MAX).unwrap(); }
                }
            }
        }
        prop_assert!(one.outbox.is_empty());
        prop_assert_eq!(one.outbox.waiting(), 0);
    }
}

#[test]
fn notices_arrive_in_order_and_then_the_end() {
    let (mut master, mut worker) = channel(1024).unwrap();
    let sent =
        [Notice::Ready { kind: 2, limit: 70_000 }, Notice::Failed("no such file".into()), Notice::Leaving];
    for notice in &sent {
        notify(&mut master, notice).unwrap();
    }
    for notice in sent {
        assert_eq!(receive(&mut worker), Some(Frame::Notice(notice)));
    }
    assert_eq!(receive(&mut worker), None);
    drop(master);
    let end = worker.inbox.receive(worker.socket.as_fd(), &mut Budget::new(usize::MAX, usize::MAX));
    assert_eq!(end.unwrap(), Received::Closed);
    assert_eq!(notify(&mut worker, &Notice::Leaving), Err(Undelivered::Gone));
}

#[test]
fn garbage_is_a_fault_as_soon_as_its_header_is_there() {
    let header = |len: usize, tag: u8| [len as u32, tag.into()].map(u32::to_le_bytes).concat();
    let message = |len: usize| header(ENVELOPE + len, Purpose::Message as u8);
    let short_message = header(ENVELOPE - 1, Purpose::Message as u8);
    for bad in [
        b"GET / HT".to_vec(),
        header(0, b'R'),
        header(5, b'D'),
        header(0, b'D'),
        header(MAX_NOTICE + 1, b'F'),
        message(MAX + 1),
        short_message,
    ] {
        assert_eq!(read(&bad, 3), (vec![], true), "{bad:?}");
    }
    assert_eq!(read(&[0, 0, 0, 0, b'L', 0, 1, 0], 8), (vec![], true));
    assert_eq!(read(&message(MAX), 3), (vec![], false));
}

#[test]
fn a_reason_is_cut_to_the_size_of_a_notice() {
    let long = Notice::Failed("é".repeat(MAX_NOTICE));
    let (frames, fault) = read(&encode_notice(&long), 1000);
    assert!(
        matches!(&frames[..], [Frame::Notice(Notice::Failed(text))] if text.len() == MAX_NOTICE),
        "{fault}"
    );
}

#[test]
fn what_is_too_large_or_too_much_is_refused_and_nothing_of_it_sent() {
    let (mut one, mut other) = channel(100_000).unwrap();
    assert_eq!(send(&mut one, 0, &[0; 100_001]), Err(Undelivered::TooLarge));
    let mut sent = 0;
    while send(&mut one, sent, &[7; 100_000]).is_ok() {
        sent += 1;
    }
    assert_eq!(send(&mut one, sent, &[7; 100_000]), Err(Undelivered::Full));
    assert!((5..12).contains(&sent), "{sent} of 100 kB: four, and what the socket holds");
    // There is always room for a notice.
    notify(&mut one, &Notice::Leaving).unwrap();
    let mut received = 0;
    loop {
        one.outbox.flush(one.socket.as_fd(), usize::MAX).unwrap();
        match receive(&mut other) {
            Some(Frame::Message(l, bytes)) => {
                assert_eq!((l.kind, bytes.len()), (received, 100_000));
                received += 1;
            }
            Some(frame) => break assert_eq!(frame, Frame::Notice(Notice::Leaving)),
            None => {}
        }
    }
    assert_eq!(received, sent);
}

#[test]
fn a_budget_bounds_what_is_read_and_handed_out() {
    let (mut one, mut other) = channel(100_000).unwrap();
    for kind in 0..10 {
        send(&mut one, kind, b"short").unwrap();
    }
    let mut budget = Budget::new(1 << 20, 3);
    let mut take = |budget: &mut Budget| {
        let found = other.inbox.receive(other.socket.as_fd(), budget).unwrap();
        matches!(found, Received::Message(..)).then_some(()).ok_or(found == Received::BudgetSpent)
    };
    assert_eq!([take(&mut budget), take(&mut budget), take(&mut budget)], [Ok(()); 3]);
    assert_eq!(take(&mut budget), Err(true));
    budget.frames = 100;
    assert_eq!((0..20).filter(|_| take(&mut budget).is_ok()).count(), 7);
    send(&mut one, 0, &[1; 50_000]).unwrap();
    let mut turns = 0;
    while take(&mut Budget::new(10_000, 9)).is_err() {
        turns += 1;
    }
    assert_eq!(turns, 5);
}

#[test]
fn many_short_frames_cost_what_their_bytes_cost() {
    let (mut one, mut other) = channel(1 << 20).unwrap();
    let (mut sent, mut received) = (0, 0);
    let start = std::time::Instant::now();
    while received < 200_000 {
        while sent < 200_000 && send(&mut one, sent, b"a few bytes").is_ok() {
            sent += 1;
        }
        one.outbox.flush(one.socket.as_fd(), usize::MAX).unwrap();
        while let Some(Frame::Message(l, _)) = receive(&mut other) {
            assert_eq!(l.kind, received);
            received += 1;
        }
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
}
