//! A file as the answer to a request: content type, validators, conditions, ranges (RFC 9110 sections 8, 13 and 14).

use super::conditions::{Fields, Outcome, Validators, allows_range, evaluate};
use super::percent::decode_into;
use super::range::{Range, range};
use super::request::Request;
use super::response::{Refused, Response};
use super::{content_type, encode};
use crate::sys::time::Time;
use crate::sys::{errno, files};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

impl Response {
    /// Answers a request with a file. Everything is set: the status, `Content-Type` by the extension of the path unless it was set
    /// before, `Last-Modified`, `ETag` of the size, the time in nanoseconds and the inode, `Accept-Ranges`. Conditions are evaluated
    /// (`If-Match`, `If-None-Match`, `If-Modified-Since`, `If-Unmodified-Since`, `If-Range`), and one range is sent as such; several
    /// ranges are answered with the whole file. The bytes are sent by sendfile(2).
    ///
    /// Returns the status that it has set: 200 or 206; 304 if the client has this version, 412 if it wants another; 416 if the file does not have
    /// the range; 405 if the method is neither GET nor HEAD; 404 if there is no such regular file; 403 if it may not be read; 503 if
    /// there is no descriptor or memory for it; 500 for other reasons. With 400 and more there is no body, which the handler may set.
    ///
    /// The path is trusted, and symbolic links are followed; for a path from a request there is [`Response::send_below`].
    ///
    /// # Errors
    /// As [`Response::body`].
    pub fn send_file(&mut self, req: &Request<'_>, path: impl AsRef<Path>) -> Result<u16, Refused> {
        let path = path.as_ref();
        self.answer_with(req, path.as_os_str().as_bytes(), || files::open(path))
    }

    /// As [`Response::send_file`], with the file below the folder `root` that a path of a request names: [`Request::path`], or what is left of it
    /// behind a prefix. It is percent-decoded here; a `/` at its start is dropped.
    ///
    /// Nothing outside of `root` is sent: 404 for a path with an empty name, `.` or `..`, a NUL or an encoded `/` in it, so that each file has one
    /// path, and for symbolic links that lead out of `root` (openat2(2)). Names that begin with a dot are names as others.
    ///
    /// # Errors
    /// As [`Response::body`].
    pub fn send_below(
        &mut self,
        req: &Request<'_>,
        root: impl AsRef<Path>,
        path: impl AsRef<[u8]>,
    ) -> Result<u16, Refused> {
        let name = plain(path.as_ref());
        let shown = name.as_ref().map(|name| name.to_bytes().to_vec()).unwrap_or_default();
        self.answer_with(req, &shown, || match &name {
            Some(name) => files::open_below(root.as_ref(), name),
            None => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn answer_with(
        &mut self,
        req: &Request<'_>,
        path: &[u8],
        open: impl FnOnce() -> io::Result<File>,
    ) -> Result<u16, Refused> {
        // Refused before anything is opened if it is too late.
        self.status(200)?;
        self.unset_body()?;
        if !matches!(req.method(), "GET" | "HEAD") {
            self.put("allow", "GET, HEAD")?;
            return self.ends_with(405);
        }
        let opened = open().and_then(|file| file.metadata().map(|about| (file, about)));
        let (file, about) = match opened {
            Ok((file, about)) if about.is_file() => (file, about),
            Ok(_) => return self.ends_with(404),
            Err(e) => return self.ends_with(status_of(&e)),
        };
        let size = about.size();
        let modified = (about.mtime(), about.mtime_nsec());
        let date = self.date.shown(Time::last_tick());
        let validators = Validators::new(size, about.ino(), modified, SystemTime::now(), date);
        self.put("etag", &validators.field())?;
        match evaluate(req, &validators) {
            Outcome::NotModified => return self.ends_with(304),
            Outcome::Failed => return self.ends_with(412),
            Outcome::Send => {}
        }
        self.put("last-modified", &httpdate::fmt_http_date(validators.modified))?;
        self.put("accept-ranges", "bytes")?;
        // Of methods GET alone has ranges (section 14.2).
        let asked = if req.method() == "GET" { req.combined("range") } else { None };
        let asked = asked.filter(|_| allows_range(req, &validators));
        let (status, start, len) = match asked.map_or(Range::Whole, |value| range(&value, size)) {
            Range::Whole => (200, 0, size),
            Range::Part(start, len) => {
                self.put("content-range", &format!("bytes {start}-{}/{size}", start + len - 1))?;
                (206, start, len)
            }
            Range::Unsatisfiable => {
                self.put("content-range", &format!("bytes */{size}"))?;
                return self.ends_with(416);
            }
        };
        if !encode::has_field(&self.fields, b"content-type") {
            self.header("Content-Type", content_type::of(path).to_bytes())?;
        }
        match self.file(file, start, len) {
            // It has become shorter since.
            Err(Refused::File) => self.ends_with(500),
            set => set.and_then(|()| self.ends_with(status)),
        }
    }

    /// Sets a field that may be there once.
    fn put(&mut self, name: &str, value: &str) -> Result<(), Refused> {
        encode::remove_field(&mut self.fields, name.as_bytes());
        self.header(name, value)
    }

    fn ends_with(&mut self, status: u16) -> Result<u16, Refused> {
        self.status(status).map(|()| status)
    }
}

/// The status for a file that cannot be opened.
fn status_of(e: &io::Error) -> u16 {
    use io::ErrorKind as K;
    match (e.kind(), e.raw_os_error()) {
        (K::NotFound | K::NotADirectory | K::InvalidInput, _) => 404,
        // Too long a name, links in a circle or out of the root, a socket, a device without a driver.
        (_, Some(errno::ENAMETOOLONG | errno::ELOOP | errno::EXDEV | errno::ENXIO | errno::ENODEV)) => 404,
        (K::PermissionDenied, _) => 403,
        (_, Some(error)) if errno::OF_SHORTAGE.contains(&error) => 503,
        _ => 500,
    }
}

/// The relative path that a path of a request stands for; `None` if it is not the one path of a file.
fn plain(path: &[u8]) -> Option<CString> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let mut plain = Vec::with_capacity(path.len());
    for (i, encoded) in path.split(|b| *b == b'/').enumerate() {
        if i > 0 {
            plain.push(b'/');
        }
        let start = plain.len();
        decode_into(&mut plain, encoded, false);
        let name = &plain[start..];
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
            return None;
        }
    }
    CString::new(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_file_has_one_path() {
        for (path, expected) in [
            ("/a", Some("a")),
            ("a/b.txt", Some("a/b.txt")),
            ("/a%20b/%C3%A9", Some("a b/é")),
            ("/100%", Some("100%")),
            ("/.hidden", Some(".hidden")),
            ("/...", Some("...")),
            ("/a+b", Some("a+b")),
            ("", None),
            ("/", None),
            ("//a", None),
            ("/a/", None),
            ("/a//b", None),
            ("/./a", None),
            ("/a/..", None),
            ("/%2e%2e/a", None),
            ("/a%2fb", None),
            ("/a%2F..%2Fb", None),
            ("/a%00b", None),
        ] {
            assert_eq!(plain(path.as_bytes()).as_deref().map(|p| p.to_str().unwrap()), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leads_up(path in "[a./%2eEfF0-]{0,20}") {
            if let Some(plain) = plain(path.as_bytes()) {
                let mut names = plain.to_bytes().split(|b| *b == b'/');
                prop_assert!(names.all(|name| ![&b""[..], b".", b".."].contains(&name)), "{plain:?}");
            }
        }
    }
}
