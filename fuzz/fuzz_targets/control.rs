//! Requests on the control socket: a request that was parsed and written again parses to the same.
#![no_main]

use prefork::control::protocol::{parse, write_line};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = parse(bytes) {
        let mut line = Vec::new();
        write_line(&request, &mut line).unwrap();
        assert_eq!(parse(&line), Ok(request));
    }
});
