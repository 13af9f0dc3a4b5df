//! WebSocket by the examples, in C and in Rust: RFC 6455 byte by byte, clients of others, rooms over all workers, reloads.
#![allow(clippy::unwrap_used)]

mod util;

use socket2::SockRef;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use util::random::Random;
use util::wait_until;
use util::websocket::Language::{C, Rust};
use util::websocket::*;

#[test]
fn a_handshake_is_answered_or_told_what_is_wrong() {
    let change = |from: &str, to: &str| {
        assert!(HANDSHAKE.contains(from));
        HANDSHAKE.replacen(from, to, 1)
    };
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let version = "Sec-WebSocket-Version: 13";
    let asks_for_13 = "Sec-WebSocket-Version: 13";
    let asks_for_upgrade = "Upgrade: websocket";
    let cases = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 426, asks_for_upgrade),
        (change(version, "Sec-WebSocket-Version: 12"), 426, asks_for_13),
        (change(version, "Sec-WebSocket-Version: 8, 13"), 426, asks_for_13),
        (change(version, "A: 13"), 426, asks_for_13),
        (change("Upgrade: websocket", "Upgrade: h2c"), 426, asks_for_upgrade),
        (change("Upgrade: websocket", "A: b"), 426, asks_for_upgrade),
        (change("Connection: Upgrade", "A: b"), 426, asks_for_upgrade),
        (change("HTTP/1.1", "HTTP/1.0"), 426, asks_for_upgrade),
        (change(key, ""), 400, ""),
        (change(key, "Sec-WebSocket-Key: \r\n"), 400, ""),
        (change("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZ==="), 400, ""),
        (change("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZR=="), 400, ""),
        (change("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBs-SBub25jZQ=="), 400, ""),
        (change("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ"), 400, ""),
        (change(key, &key.repeat(2)), 400, ""),
        (change("GET", "POST"), 400, ""),
        (change("Upgrade: websocket", "Upgrade: WebSocket"), 101, "Upgrade: websocket"),
        (change("Connection: Upgrade", "Connection: keep-alive, upgrade"), 101, "Connection: upgrade"),
        (HANDSHAKE.into(), 101, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ];
    for language in [C, Rust] {
        let server = echo(language);
        for (request, status, line) in &cases {
            let mut peer = Peer::connect(server.tcp()).unwrap();
            peer.send(request);
            let head = peer.head().unwrap();
            assert!(head[0].starts_with(&format!("HTTP/1.1 {status} ")), "{language:?}: {request}{head:?}");
            assert!(line.is_empty() || has(&head, line), "{language:?}: {request}{head:?}");
            if *status == 101 {
                peer.is_served("hello");
            }
        }
        // A client that does not wait for the answer.
        let mut peer = Peer::connect(server.tcp()).unwrap();
        peer.send([HANDSHAKE.as_bytes(), &frame(FIN | TEXT, "early"), &frame(FIN | PING, "too")].concat());
        assert!(peer.head().unwrap()[0].contains(" 101 "));
        assert_eq!((peer.next(), peer.next()), (of(TEXT, "early"), of(PONG, "too")));
        drop(peer);
        server.stop();
    }
}

#[test]
fn every_first_byte_has_its_answer() {
    for language in [C, Rust] {
        let server = echo(language);
        for first in 0..=u8::MAX {
            let mut peer = Peer::open(&server);
            peer.send(frame(first, ""));
            let is_last = first & FIN != 0;
            match first & 0x7f {
                TEXT | BINARY if is_last => assert_eq!(peer.next(), of(first & 15, "")),
                TEXT | BINARY => {
                    peer.send(frame(FIN, "rest"));
                    assert_eq!(peer.next(), of(first, "rest"));
                }
                PING if is_last => assert_eq!(peer.next(), of(PONG, "")),
                PONG if is_last => peer.is_served("still here"),
                CLOSE if is_last => {
                    assert_eq!(peer.next(), of(CLOSE, ""));
                    peer.stream.shutdown(Shutdown::Write).unwrap();
                    assert_eq!(peer.next(), None);
                }
                _ => peer.is_closed_with(1002, &(language, first)),
            }
        }
        server.stop();
    }
}

#[test]
fn frames_that_break_the_rules_end_the_connection() {
    let hello = || frame(FIN | TEXT, "hello");
    let unmasked = vec![FIN | TEXT, 5, b'h', b'e', b'l', b'l', b'o'];
    let long_ping = frame(FIN | PING, [b'x'; 126]);
    let long_close = close_with(1000, [b'x'; 124]);
    let first = || frame(TEXT, "a");
    let cases = [
        ("unmasked", vec![unmasked]),
        ("a ping of 126 bytes", vec![long_ping]),
        ("a close of 126 bytes", vec![long_close]),
        ("a ping in two", vec![frame(PING, "a"), frame(FIN, "b")]),
        ("a continuation of nothing", vec![frame(FIN, "a")]),
        ("one more continuation", vec![frame(0, "a")]),
        ("a text within a text", vec![first(), hello()]),
        ("a binary within a text", vec![first(), frame(FIN | BINARY, "a")]),
        ("a reserved bit in a continuation", vec![first(), frame(FIN | 0x40, "b")]),
        ("a reserved bit in a ping", vec![frame(FIN | 0x10 | PING, "b")]),
    ];
    for language in [C, Rust] {
        let server = echo(language);
        for (what, frames) in &cases {
            // What was right before is answered, and what follows is not.
            let mut peer = Peer::open(&server);
            peer.send([hello(), frames.concat(), hello()].concat());
            assert_eq!(peer.next(), of(TEXT, "hello"), "{what}");
            peer.is_closed_with(1002, &(language, what));
        }
        // Not the shortest form of the length. tungstenite takes it.
        for bytes in [&[FIN | TEXT, 254, 0, 125][..], &[FIN | TEXT, 255, 0, 0, 0, 0, 0, 0, 255, 255]] {
            let size = if bytes.len() == 4 { 125 } else { 65535 };
            let mut peer = Peer::open(&server);
            peer.send([bytes, &[0; 4], &vec![b'x'; size]].concat());
            match language {
                C => peer.is_closed_with(1002, &size),
                Rust => assert_eq!(peer.next().unwrap().data.len(), size),
            }
        }
        // Lengths that nobody can send.
        for (high, code) in [(0x80, 1002), (0x7f, 1009), (0x00, 1009)] {
            let mut peer = Peer::open(&server);
            peer.send([FIN | BINARY, 255, high, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]);
            peer.is_closed_with(if language == Rust { 1009 } else { code }, &(language, high));
        }
        server.stop();
    }
}

#[test]
fn close_codes_are_returned_if_they_are_legal() {
    let codes = (0..=1)
        .chain([500, 999])
        .chain(1000..=1020)
        .chain([1099, 1100, 2000, 2998, 2999, 3000, 3001, 3999, 4000, 4998, 4999, 5000, 9999, 65535]);
    for language in [C, Rust] {
        let server = echo(language);
        for code in codes.clone() {
            let is_legal = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            // tungstenite does not know it: bad gateway.
            let is_legal = is_legal && !(language == Rust && code == 1014);
            for reason in ["", "because", "weil's schön ist"] {
                let mut peer = Peer::open(&server);
                peer.send(close_with(code, reason));
                peer.is_closed_with(if is_legal { code } else { 1002 }, &(language, code));
            }
        }
        for (body, code) in [
            (&b"\x03"[..], 1002),
            (b"\x03\xe8\xff", 1007),
            (b"\x03\xe8ok\xc3", 1007),
            (b"\x03\xe8\xed\xa0\x80", 1007),
            (b"\x03\xe8\xc0\x80", 1007),
        ] {
            let mut peer = Peer::open(&server);
            // Byte by byte, as the reason must be looked at across reads.
            for byte in frame(FIN | CLOSE, body) {
                peer.send([byte]);
                thread::sleep(Duration::from_micros(200));
            }
            peer.is_closed_with(code, &(language, body));
        }
        // Nothing is answered after a close, and a close without a code has none in the answer.
        let mut peer = Peer::open(&server);
        peer.send([frame(FIN | CLOSE, ""), frame(FIN | TEXT, "late"), frame(FIN | PING, "late")].concat());
        assert_eq!(peer.next(), of(CLOSE, ""));
        peer.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(peer.next(), None);
        // A close within a message.
        let mut peer = Peer::open(&server);
        peer.send([frame(TEXT, "half"), close_with(1001, "")].concat());
        peer.is_closed_with(1001, &language);
        server.stop();
    }
}

#[test]
fn text_is_utf8_however_it_is_divided() {
    let valid = [
        "κόσμε",
        "\u{7f}\u{80}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}",
        "\u{d7ff}\u{e000}\u{fffd}",
        "\0a\0",
    ];
    let invalid: [&[u8]; 19] = [
        b"\x80",
        b"\xbf",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xc3",
        b"\xc3(",
        b"\xe0\x80\x80",
        b"\xe0\x9f\xbf",
        b"\xe2\x82",
        b"\xe2(\xa1",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf0\x80\x80\x80",
        b"\xf0\x8f\xbf\xbf",
        b"\xf0\x9f\x92",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xfe",
        b"\xff",
    ];
    for language in [C, Rust] {
        let server = echo(language);
        for text in valid {
            let mut peer = Peer::open(&server);
            for at in 0..=text.len() {
                let (a, b) = text.as_bytes().split_at(at);
                peer.send([frame(TEXT, a), frame(FIN | PING, ""), frame(FIN, b)].concat());
                assert_eq!(
                    (peer.next(), peer.next()),
                    (of(PONG, ""), of(TEXT, text)),
                    "{language:?} {text:?} {at}"
                );
            }
            let mut bytes = frame(TEXT, "");
            text.bytes().for_each(|b| bytes.extend(frame(0, [b])));
            bytes.extend(frame(FIN, ""));
            peer.send(bytes);
            assert_eq!(peer.next(), of(TEXT, text));
        }
        for bad in invalid {
            for (before, after) in [("", ""), ("", "after"), ("before", ""), ("bef€re", "äfter")] {
                let text = [before.as_bytes(), bad, after.as_bytes()].concat();
                let divided: Vec<u8> = text.iter().flat_map(|b| frame(0, [*b])).collect();
                for bytes in [
                    frame(FIN | TEXT, &text),
                    [frame(TEXT, ""), divided, frame(FIN, "")].concat(),
                    [frame(TEXT, &text[..before.len() + 1]), frame(FIN, &text[before.len() + 1..])].concat(),
                ] {
                    let mut peer = Peer::open(&server);
                    peer.send(bytes);
                    peer.is_closed_with(1007, &(language, bad, before, after));
                }
                // To others it does not matter.
                let mut peer = Peer::open(&server);
                peer.send(frame(FIN | BINARY, &text));
                assert_eq!(peer.next(), of(BINARY, &text));
            }
        }
        if language == C {
            // At once, not at the end of the frame.
            let mut peer = Peer::open(&server);
            peer.send(&frame(FIN | TEXT, [b"abc\xff", &[b'x'; 100][..]].concat())[..10]);
            peer.is_closed_with(1007, &"early");
        }
        server.stop();
    }
}

#[test]
fn bytes_may_come_one_by_one() {
    for language in [C, Rust] {
        let server = echo(language);
        let mut peer = Peer::open(&server);
        let (middle, large) = ("m".repeat(200), vec![7; 65536]);
        let head = |f: Vec<u8>| f.into_iter().take(20).collect::<Vec<_>>();
        let stream = [
            frame(TEXT, "né"),
            frame(FIN | PING, "ping"),
            frame(0, ""),
            frame(FIN, "e"),
            frame(FIN | BINARY, ""),
            frame(FIN | TEXT, &middle),
            head(frame(FIN | BINARY, &large)),
        ];
        for byte in stream.concat() {
            peer.send([byte]);
            thread::sleep(Duration::from_micros(100));
        }
        peer.send(&frame(FIN | BINARY, &large)[20..]);
        peer.send(close_with(1000, "é"));
        for expected in
            [of(PONG, "ping"), of(TEXT, "née"), of(BINARY, ""), of(TEXT, &middle), of(BINARY, &large)]
        {
            assert_eq!(peer.next(), expected, "{language:?}");
        }
        peer.is_closed_with(1000, &language);
        server.stop();
    }
}

#[test]
fn messages_have_any_size_up_to_the_limit() {
    for language in [C, Rust] {
        let server = start(language, "websocket", &[], &[("MAX_MESSAGE", "1048576")]);
        let mut peer = Peer::open(&server);
        for size in [0, 1, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537, 1 << 20] {
            let data: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            peer.send(frame(FIN | BINARY, &data));
            assert_eq!(peer.next(), of(BINARY, &data), "{language:?}");
            // In three, the middle one empty.
            let (a, b) = data.split_at(size / 3);
            peer.send([frame(BINARY, a), frame(0, ""), frame(FIN, b)].concat());
            assert_eq!(peer.next(), of(BINARY, &data), "{language:?}");
        }
        let half = vec![b'x'; 1 << 19];
        for frames in [
            // The head alone: nobody waits for the rest.
            frame(FIN | BINARY, vec![0; (1 << 20) + 1])[..14].to_vec(),
            [frame(TEXT, &half), frame(0, &half), frame(FIN, "x")].concat(),
            [frame(TEXT, &half), frame(0, &half), frame(0, ""), frame(0, "x")].concat(),
        ] {
            let mut peer = Peer::open(&server);
            peer.send(frames);
            peer.is_closed_with(1009, &language);
        }
        // The limit is of each message.
        peer.send([frame(TEXT, &half), frame(FIN, &half)].concat());
        assert_eq!(peer.next().unwrap().data.len(), 1 << 20);
        drop(peer);
        server.stop();
    }
}

/// Messages divided at random, with control frames between, in writes of any size. Returns the bytes and the answers.
fn conversation(random: &mut Random) -> (Vec<u8>, Vec<Frame>) {
    let letters: Vec<char> = "aé€𝄞\0".chars().collect();
    let (mut bytes, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..1 + random.below(8) {
        let kind = random.one_of(&[TEXT, BINARY]);
        let largest = random.one_of(&[4, 130, 1000, 70_000]);
        let size = random.below(largest);
        let data: Vec<u8> = match kind {
            TEXT => (0..size / 2).map(|_| random.one_of(&letters)).collect::<String>().into_bytes(),
            _ => (0..size).map(|_| random.below(256) as u8).collect(),
        };
        let mut cuts: Vec<usize> =
            (0..random.below(6)).map(|_| random.below(data.len() as u64 + 1) as usize).collect();
        cuts.extend([0, data.len()]);
        cuts.sort_unstable();
        let parts = cuts.len() - 1;
        for (i, ends) in cuts.windows(2).enumerate() {
            let first = if i == 0 { kind } else { 0 } | if i + 1 == parts { FIN } else { 0 };
            bytes.extend(frame(first, &data[ends[0]..ends[1]]));
            if i + 1 == parts {
                answers.push(Frame { kind, data: data.clone() });
            }
            while random.once_in(3) {
                let body: Vec<u8> = (0..random.below(126)).map(|_| random.below(256) as u8).collect();
                if random.once_in(2) {
                    bytes.extend(frame(FIN | PING, &body));
                    answers.push(Frame { kind: PONG, data: body });
                } else {
                    bytes.extend(frame(FIN | PONG, &body));
                }
            }
        }
    }
    (bytes, answers)
}

#[test]
fn whatever_is_divided_and_mixed_returns_whole_and_in_order() {
    let rounds = 300;
    let seed = Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id());
    println!("seed {seed}");
    for language in [C, Rust] {
        let server = echo(language);
        let random = &mut Random::new(seed);
        let mut peer = Peer::open(&server);
        for round in 0..rounds {
            let (bytes, answers) = conversation(random);
            let mut writer = peer.stream.try_clone().unwrap();
            let largest = random.one_of(&[1, 7, 100, 5000, 1 << 20]).max(bytes.len() / 300);
            let pieces: Vec<Vec<u8>> = bytes.chunks(largest).map(<[u8]>::to_vec).collect();
            let writing =
                thread::spawn(move || pieces.iter().for_each(|piece| writer.write_all(piece).unwrap()));
            for (i, expected) in answers.into_iter().enumerate() {
                assert_eq!(
                    peer.next(),
                    Some(expected),
                    "{language:?}, seed {seed}, round {round}, answer {i}"
                );
            }
            writing.join().unwrap();
            if random.once_in(20) {
                peer = Peer::open(&server);
            }
        }
        drop(peer);
        server.stop();
    }
}

#[test]
fn a_client_that_does_not_read_is_not_read_and_gets_everything_when_it_does() {
    // More than the kernel holds for it: tcp_rmem and tcp_wmem (tcp(7)) together.
    const COUNT: usize = 46 * 60;
    // Small ones fill half of what may wait, bit by bit; then the answer to a large one has no room.
    let is_large = |i: usize| i % 46 == 45;
    let data = |i: usize| vec![i as u8; if is_large(i) { 999_000 } else { 10_000 }];
    for language in [C, Rust] {
        let server = start(language, "websocket", &[("max-pending", "1m")], &[("MAX_MESSAGE", "1000000")]);
        let mut slow = Peer::open(&server);
        SockRef::from(&slow.stream).set_recv_buffer_size(65536).unwrap();
        let (sent, mut writer) = (AtomicUsize::new(0), slow.stream.try_clone().unwrap());
        thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..COUNT {
                    // Messages are told apart; and pings wait like them.
                    writer.write_all(&frame(FIN | BINARY, data(i))).unwrap();
                    writer.write_all(&frame(FIN | PING, (i as u32).to_be_bytes())).unwrap();
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
            // Until it is stopped.
            let mut last = (usize::MAX, Instant::now());
            wait_until("the server reads no more", || {
                let now = sent.load(Ordering::Relaxed);
                if now != last.0 {
                    last = (now, Instant::now());
                }
                last.1.elapsed() > Duration::from_millis(500)
            });
            assert!(last.0 < COUNT, "{language:?}: all was read");
            for worker in server.workers() {
                assert!(resident(worker) < 40 << 20, "{language:?}: {}", resident(worker));
            }
            // Others do not wait for it, though a worker has both.
            let mut others: Vec<_> = (0..4).map(|_| Peer::open(&server)).collect();
            others.iter_mut().for_each(|peer| peer.is_served("meanwhile"));
            for i in 0..COUNT {
                let answer = slow.next().unwrap();
                assert!(answer.kind == BINARY && answer.data == data(i), "{language:?}: {i}: {answer:?}");
                assert_eq!(slow.next(), of(PONG, (i as u32).to_be_bytes()), "{language:?}: {i}");
                // Slowly, so that the kernel holds all that it can for it, again and again.
                if is_large(i) {
                    thread::sleep(Duration::from_millis(10));
                }
            }
        });
        slow.send(close_with(1000, ""));
        slow.is_closed_with(1000, &language);
        server.stop();
    }
}

#[test]
fn a_message_that_never_fits_closes_the_connection() {
    let server = start(C, "websocket", &[("max-pending", "100000")], &[]);
    let mut peer = Peer::open(&server);
    peer.send(frame(FIN | BINARY, vec![1; 99_990]));
    assert_eq!(peer.next().unwrap().data.len(), 99_990);
    peer.send(frame(FIN | BINARY, vec![1; 100_000]));
    peer.is_closed_with(1009, &());
    server.stop();
}

/// The resident memory of a process, in bytes.
fn resident(pid: i32) -> usize {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn clients_that_do_not_answer_a_ping_are_dropped() {
    for language in [C, Rust] {
        let server = start(language, "websocket", &[], &[("PING_MS", "300")]);
        let mut silent = Peer::open(&server);
        let mut talking = Peer::open(&server);
        let mut half = Peer::open(&server);
        half.send(frame(TEXT, "begun"));
        for i in 0..6 {
            assert_eq!(talking.next(), of(PING, ""), "{language:?}");
            // A pong, or anything else.
            let answer = if i % 2 == 0 { frame(FIN | PONG, "") } else { frame(FIN | PONG, "unasked") };
            talking.send(answer);
        }
        for peer in [&mut silent, &mut half] {
            assert_eq!(peer.next(), of(PING, ""), "{language:?}");
            peer.is_closed_with(1011, &language);
        }
        talking.is_served("still here");
        drop(talking);
        server.stop();
    }
}

#[test]
fn a_stop_says_that_it_goes_away() {
    for language in [C, Rust] {
        let server = echo(language);
        let mut peers: Vec<_> = (0..12).map(|_| Peer::open(&server)).collect();
        peers.iter_mut().for_each(|peer| peer.is_served("hello"));
        // In the middle of a message, and of a frame.
        peers[0].send(frame(TEXT, "begun"));
        peers[1].send(&frame(TEXT, "begun")[..4]);
        server.signal(libc::SIGTERM);
        for peer in &mut peers {
            peer.is_closed_with(1001, &language);
        }
        server.ends();
    }
}

#[test]
fn a_client_that_leaves_without_a_word_costs_nothing() {
    for language in [C, Rust] {
        let server = echo(language);
        for round in 0..20 {
            let mut peers: Vec<_> = (0..10).map(|_| Peer::open(&server)).collect();
            peers.iter_mut().for_each(|peer| peer.is_served("hello"));
            for (i, mut peer) in peers.into_iter().enumerate() {
                match i % 4 {
                    0 => peer.send(frame(TEXT, "begun")),
                    1 => peer.send(&frame(FIN | BINARY, vec![0; 100_000])[..50_000]),
                    2 => SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap(),
                    _ => {
                        peer.stream.shutdown(Shutdown::Write).unwrap();
                        assert_eq!(peer.next(), None, "{language:?}, {round}");
                    }
                }
            }
        }
        wait_until("all are gone", || server.connections() == 0);
        Peer::open(&server).is_served("hello");
        server.stop();
    }
}

#[test]
fn clients_of_node_and_python_are_served() {
    for language in [C, Rust] {
        let server = start(language, "websocket", &[], &[("MAX_MESSAGE", "1000000"), ("PING_MS", "200")]);
        OTHERS.map(|name| client_of_others(name, &server, "talk")).into_iter().for_each(was_content);
        server.stop();
    }
}

#[test]
fn clients_of_node_and_python_learn_of_a_drain() {
    for language in [C, Rust] {
        let server = echo(language);
        let mut clients = OTHERS.map(|name| client_of_others(name, &server, "drain"));
        for client in &mut clients {
            let mut ready = [0; 6];
            client.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
            assert_eq!(&ready, b"ready\n");
        }
        server.signal(libc::SIGTERM);
        clients.into_iter().for_each(was_content);
        server.ends();
    }
}

#[test]
fn what_is_said_in_a_room_is_heard_by_two_hundred_in_four_workers() {
    const GUESTS: usize = 200;
    const SPEAKERS: usize = 10;
    const LINES: usize = 40;
    for language in [C, Rust] {
        let server = start(language, "chat", &[("workers", "4")], &[]);
        let mut guests: Vec<Guest> =
            (0..GUESTS).map(|_| Guest::join(server.tcp(), "/room").unwrap().unwrap()).collect();
        let workers: BTreeSet<_> =
            guests.iter().map(|g| g.name.split('.').next().unwrap().to_owned()).collect();
        assert_eq!(workers.len(), 4, "{workers:?}");
        let mut refused = Peer::connect(server.tcp()).unwrap();
        refused.send(HANDSHAKE.replacen("/chat", &format!("/{}", "x".repeat(63)), 1));
        assert!(refused.head().unwrap()[0].contains(" 404 "));
        let mut stranger = Guest::join(server.tcp(), "/another").unwrap().unwrap();
        thread::scope(|scope| {
            for (i, guest) in guests.iter().take(SPEAKERS).enumerate() {
                let mut writer = guest.peer.stream.try_clone().unwrap();
                scope.spawn(move || {
                    for n in 0..LINES {
                        let line = format!("{i} {n} {}", "é".repeat(n * 10));
                        writer.write_all(&frame(FIN | TEXT, line)).unwrap();
                    }
                });
            }
            for guest in &mut guests {
                let mut next: BTreeMap<(String, usize), usize> = BTreeMap::new();
                let mut count = 0;
                while count < SPEAKERS * LINES {
                    let text = heard(&mut guest.peer).unwrap().unwrap();
                    let Some((name, line)) = text.split_once(": ") else {
                        assert!(text.ends_with(" joins"), "{text}");
                        continue;
                    };
                    let mut words = line.splitn(3, ' ');
                    let mut number = || words.next().unwrap().parse::<usize>().unwrap();
                    let (speaker, n) = (number(), number());
                    assert_eq!(words.next().unwrap(), "é".repeat(n * 10));
                    let expected = next.entry((name.into(), speaker)).or_default();
                    assert_eq!(n, *expected, "{language:?}: of {speaker} by {}", guest.name);
                    *expected += 1;
                    count += 1;
                }
                assert_eq!(next.len(), SPEAKERS);
            }
        });
        // In another room nothing was heard; and who leaves is told.
        stranger.peer.send([frame(FIN | TEXT, "/name Éva"), frame(FIN | TEXT, "hello")].concat());
        for expected in ["ok", "Éva: hello"] {
            assert_eq!(heard(&mut stranger.peer).unwrap().as_deref(), Some(expected), "{language:?}");
        }
        let mut last = guests.pop().unwrap();
        last.peer.send(frame(FIN | TEXT, "/name Éva"));
        assert_eq!(heard(&mut last.peer).unwrap().as_deref(), Some("ok"), "{language:?}");
        last.peer.send(frame(FIN | TEXT, "goodbye"));
        assert_eq!(heard(&mut last.peer).unwrap().as_deref(), Some("Éva: goodbye"), "{language:?}");
        drop(last);
        for guest in &mut guests {
            for expected in ["Éva: goodbye", "Éva leaves"] {
                assert_eq!(heard(&mut guest.peer).unwrap().as_deref(), Some(expected), "{language:?}");
            }
        }
        guests[0].peer.send(frame(FIN | BINARY, "x"));
        guests[0].peer.is_closed_with(1003, &language);
        drop(guests);
        server.stop();
    }
}
