//! The body of the fuzz target for requests in `fuzz/`.

use super::fault::Fault;
use super::head::Head;
use super::input::Input;
use crate::config::{Config, Limits};

/// One request as it was read: method, target, host, fields, body, and the offset of its end.
type Read = (Vec<u8>, Vec<u8>, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>, usize);

/// Reads `bytes` as a client's, in one piece and byte by byte.
///
/// # Panics
/// If the two give different requests or faults.
pub fn request(bytes: &[u8]) {
    let mut config = Config::default();
    // Small limits, so that short inputs reach them.
    (config.limits.line, config.limits.head, config.limits.headers) = (64, 256, 8);
    config.limits.body = 128;
    assert_eq!(read(bytes, bytes.len().max(1), &config.limits), read(bytes, 1, &config.limits));
}

/// The requests in `bytes`, which arrive in pieces of `step`, and the fault that ended them.
fn read(bytes: &[u8], step: usize, limits: &Limits) -> (Vec<Read>, Option<Fault>) {
    let (mut input, mut empty_lines) = (Input::default(), 0);
    let (mut requests, mut taken) = (Vec::<Read>::new(), 0);
    for piece in bytes.chunks(step) {
        input.append(piece);
        taken += piece.len();
        loop {
            let request = input.next_request(&mut empty_lines, limits, |head, body| {
                let field = |i| head.fields.get(i).map(|(name, value)| (name.to_vec(), value.to_vec()));
                let fields = (0..head.fields.len()).filter_map(field).collect();
                let Head { line, host, .. } = head;
                (line.method.to_vec(), line.target.raw.to_vec(), host.to_vec(), fields, body.to_vec())
            });
            match request {
                Ok(Some((method, target, host, fields, body))) => {
                    requests.push((method, target, host, fields, body, taken - input.rest().len()));
                    empty_lines = 0;
                }
                Ok(None) => break,
                Err(fault) => return (requests, Some(fault)),
            }
        }
    }
    (requests, None)
}
