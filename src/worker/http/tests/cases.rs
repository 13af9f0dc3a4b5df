//! One connection at a time.

use super::*;

#[test]
fn a_request_is_answered_and_leaves_nothing_behind() {
    let mut b = Bench::new();
    b.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    let text = b.text();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\nDate: "), "{text}");
    assert!(text.ends_with("GMT\r\nContent-Length: 6\r\n\r\nhello\n"), "{text}");
    assert!(b.conn.is_idle());
    assert_eq!(b.deadline, Some(Deadline::Idle));
    assert_eq!(b.seat.get(Word::Requests), 1);
}
