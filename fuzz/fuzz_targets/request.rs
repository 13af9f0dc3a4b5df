//! HTTP requests, read in one piece and byte by byte, with bodies taken whole and in pieces: the same requests, the same fault.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prefork::fuzzing::request(bytes));
