//! The body of the fuzz target for requests in `fuzz/`.

use super::fault::Fault;
use super::head::{self, Head};
use super::input::{Input, Partial};
use crate::config::{Config, Limits};

/// One request as it was read: method, target, host, fields, body, and the offset of its end.
type Read = (Vec<u8>, Vec<u8>, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>, usize);

/// Reads `bytes` as a client's, in one piece and byte by byte, and with bodies that are taken whole and in pieces.
///
/// # Panics
/// If they give different requests or faults.
pub fn request(bytes: &[u8]) {
    let mut config = Config::default();
    // Small limits, so that short inputs reach them.
    (config.limits.line, config.limits.head, config.limits.headers) = (64, 256, 8);
    config.limits.body = 128;
    let whole = bytes.len().max(1);
    assert_eq!(read(bytes, whole, &config.limits), read(bytes, 1, &config.limits));
    // This limit is for whole bodies alone.
    config.limits.body = u64::MAX;
    let plain = read(bytes, whole, &config.limits);
    for step in [whole, 7, 1] {
        assert_eq!(read_in_pieces(bytes, step, &config.limits), plain, "{step}");
    }
}

/// The parts of a head, and a body.
fn parts(head: &Head<'_>, body: Vec<u8>, end: usize) -> Read {
    let field = |i| head.fields.get(i).map(|(name, value)| (name.to_vec(), value.to_vec()));
    let fields = (0..head.fields.len()).filter_map(field).collect();
    let Head { line, host, .. } = head;
    (line.method.to_vec(), line.target.raw.to_vec(), host.to_vec(), fields, body, end)
}

/// As [`read`], with bodies that are taken in pieces.
fn read_in_pieces(bytes: &[u8], step: usize, limits: &Limits) -> (Vec<Read>, Option<Fault>) {
    let mut body = Vec::new();
    read_by(bytes, step, |input, empty_lines| next_in_pieces(input, empty_lines, &mut body, limits))
}

fn next_in_pieces(
    input: &mut Input,
    empty_lines: &mut u8,
    body: &mut Vec<u8>,
    limits: &Limits,
) -> Result<Option<Read>, Fault> {
    if input.partial.is_none() {
        let Some(len) = input.find_head(empty_lines, limits)? else { return Ok(None) };
        let mut table = head::table();
        let partial = Partial::in_pieces(&Head::parse(&input.rest()[..len], &mut table)?, limits);
        input.partial = Some(partial);
    }
    input.next_piece(|head, piece, is_last| {
        body.extend_from_slice(piece);
        is_last.then(|| parts(head, std::mem::take(body), 0))
    })
}

/// The requests in `bytes`, which arrive in pieces of `step`, and the fault that ended them.
fn read(bytes: &[u8], step: usize, limits: &Limits) -> (Vec<Read>, Option<Fault>) {
    read_by(bytes, step, |input, empty_lines| {
        input.next_request(empty_lines, limits, |head, body| parts(head, body.to_vec(), 0))
    })
}

/// As [`read`]; `next` reads a request, with the number of empty lines before it.
fn read_by(
    bytes: &[u8],
    step: usize,
    mut next: impl FnMut(&mut Input, &mut u8) -> Result<Option<Read>, Fault>,
) -> (Vec<Read>, Option<Fault>) {
    let (mut input, mut empty_lines) = (Input::default(), 0);
    let (mut requests, mut taken) = (Vec::<Read>::new(), 0);
    for piece in bytes.chunks(step) {
        input.append(piece);
        taken += piece.len();
        loop {
            match next(&mut input, &mut empty_lines) {
                Ok(Some(mut request)) => {
                    request.5 = taken - input.rest().len();
                    requests.push(request);
                    empty_lines = 0;
                }
                Ok(None) => break,
                Err(fault) => return (requests, Some(fault)),
            }
        }
    }
    (requests, None)
}
