//! A message channel, read in one piece and in several: the same frames, the same fault.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prefork::fuzzing::frames(bytes));
