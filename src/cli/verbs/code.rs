//! The files that servers have read their code from: their hash, which is computed here to save the master the work, and their line.

use prefork::CodeFile;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Digits of the hash in a line; JSON has all.
const SHORT: usize = 12;

/// Fills in the hash of a module, unless its file is another one by now, or has other content.
pub fn measure_module(code: &mut CodeFile) {
    // The server tells the time in milliseconds.
    let ms = |time: SystemTime| time.duration_since(UNIX_EPOCH).ok().map(|t| t.as_millis());
    let same = |file: &File| {
        let Ok(about) = file.metadata() else { return false };
        about.ino() == code.inode && about.modified().is_ok_and(|time| ms(time) == ms(code.modified))
    };
    code.sha256 = File::open(&code.path).ok().filter(same).and_then(hash);
}

/// Fills in the hash of the program that a process runs, whatever has become of its file.
pub fn measure_program(code: &mut CodeFile, pid: i32) {
    let same = |file: &File| file.metadata().is_ok_and(|about| about.ino() == code.inode);
    code.sha256 = File::open(format!("/proc/{pid}/exe")).ok().filter(same).and_then(hash);
}

fn hash(mut file: File) -> Option<String> {
    let (mut sha, mut buf) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buf).ok()? {
            0 => break,
            n => sha.update(&buf[..n]),
        }
    }
    let mut text = String::new();
    for byte in sha.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    Some(text)
}

/// `/srv/releases/2/shop.so (inode 1234, Mon, 30 Nov 2026 03:00:00 GMT, sha256 0123456789ab)`
pub fn describe(code: &CodeFile) -> String {
    let time = httpdate::fmt_http_date(code.modified);
    let hash = code.sha256.as_ref().map_or_else(String::new, |hash| format!(", sha256 {}", &hash[..SHORT]));
    format!("{} (inode {}, {time}{hash})", code.path, code.inode)
}

/// As [`describe`], and what takes the file that is there by now, if it is another one.
pub fn describe_with(code: Option<&CodeFile>, verb: &str) -> String {
    let Some(code) = code else { return "-".into() };
    let changed =
        if code.changed { format!("; changed since: `prefork {verb}` takes it") } else { String::new() };
    describe(code) + &changed
}
