//! What the fuzz target in `fuzz/` runs: requests are read in one piece and byte by byte, and nothing may differ.

use super::chunked::Piece;
use super::fault::Fault;
use super::head::{self, Head};
use super::input::{Body, Due, Input};
use super::skip_empty_lines;
use crate::config::{Config, Limits};

/// One request as it was read: method, target, host, body, and where it ended.
type Read = (String, String, String, Vec<u8>, usize);

/// Reads `bytes` as a client's.
///
/// # Panics
/// Where reading in one piece and reading byte by byte differ.
pub fn request(bytes: &[u8]) {
    let mut config = Config::default();
    // Small limits, so that short inputs reach them.
    (config.limits.line, config.limits.head, config.limits.headers) = (64, 256, 8);
    config.limits.body = 128;
    assert_eq!(read(bytes, bytes.len().max(1), &config.limits), read(bytes, 1, &config.limits));
}

/// The requests in `bytes`, which come in pieces of `step`, and the fault that ended them.
fn read(bytes: &[u8], step: usize, limits: &Limits) -> (Vec<Read>, Option<Fault>) {
    let (mut input, mut lines) = (Input::default(), 0);
    let (mut requests, mut taken) = (Vec::new(), 0);
    for piece in bytes.chunks(step) {
        input.buf.extend_from_slice(piece);
        taken += piece.len();
        loop {
            match next(&mut input, &mut lines, limits) {
                Ok(Some(mut request)) => {
                    request.4 = taken - input.rest().len();
                    requests.push(request);
                    lines = 0;
                }
                Ok(None) => break,
                Err(fault) => return (requests, Some(fault)),
            }
        }
    }
    (requests, None)
}

/// One request; the steps are those of the engine.
fn next(input: &mut Input, lines: &mut u8, limits: &Limits) -> Result<Option<Read>, Fault> {
    if input.due.is_none() {
        skip_empty_lines(input, lines)?;
        let Some(head_len) = input.scan.run(&input.buf[input.start..], limits)? else { return Ok(None) };
        let mut table = head::table();
        let head = Head::parse(&input.buf[input.start..input.start + head_len], &mut table)?;
        let body = Body::new(head.length, limits)?;
        input.due = Some(Due { head_len, body, continues: false });
    }
    let Some(due) = &mut input.due else { return Ok(None) };
    let head_len = due.head_len;
    let (head, rest) = input.buf[input.start..].split_at_mut(head_len);
    match due.body.advance(rest, limits)? {
        Piece::More(len) => {
            input.buf.truncate(input.start + head_len + len);
            Ok(None)
        }
        Piece::End { len, used } => {
            let mut table = head::table();
            let head = Head::parse(head, &mut table)?;
            let read = (head.method.into(), head.target.into(), head.host.into(), rest[..len].to_vec(), 0);
            input.consume(head_len + used);
            Ok(Some(read))
        }
    }
}
