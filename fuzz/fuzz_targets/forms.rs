//! A form with files, read in one piece and in several: the same parts, the same fault. Parameters of any bytes are read.
#![no_main]

use prefork::{Malformed, Multipart, Pairs, PartEvent};

/// The names and bytes of parts, and the fault that ended them.
fn read(bytes: &[u8], step: usize) -> (Vec<(Vec<u8>, Vec<u8>)>, Option<Malformed>) {
    let (mut parts, mut fault) = (Vec::new(), None);
    let Ok(mut form) = Multipart::new(b"multipart/form-data; boundary=X") else { return (parts, fault) };
    for piece in bytes.chunks(step) {
        form.feed(piece);
        loop {
            match form.next() {
                Ok(Some(PartEvent::Begin(part))) => parts.push((part.name.into_owned(), Vec::new())),
                Ok(Some(PartEvent::Data(data))) => {
                    if let Some((_, all)) = parts.last_mut() {
                        all.extend_from_slice(data);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(e) => return (parts, Some(e)),
            }
        }
    }
    fault = fault.or(form.finish().err());
    // What a part that does not end has is given as soon as it cannot be a boundary, which depends on the pieces.
    if fault.is_some() {
        parts.pop();
    }
    (parts, fault)
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes, bytes.len().max(1));
    for step in [1, 7] {
        assert_eq!(read(bytes, step), whole, "{step}");
    }
    let pairs = Pairs::urlencoded(bytes);
    assert_eq!(pairs.iter().count(), pairs.len());
});
