//! Content types by the extension of a file's name.

use std::ffi::CStr;

/// The type of files that are of no type known here.
const UNKNOWN: &CStr = c"application/octet-stream";

/// Extensions in alphabetical order, with their types (IANA's registry; `text/javascript` by RFC 9239). Text is UTF-8, since browsers
/// guess what is not said; XML says it itself.
const TYPES: [(&str, &CStr); 83] = [
    ("7z", c"application/x-7z-compressed"),
    ("aac", c"audio/aac"),
    ("apng", c"image/apng"),
    ("atom", c"application/atom+xml"),
    ("avi", c"video/x-msvideo"),
    ("avif", c"image/avif"),
    ("bin", c"application/octet-stream"),
    ("bmp", c"image/bmp"),
    ("br", c"application/x-brotli"),
    ("bz2", c"application/x-bzip2"),
    ("css", c"text/css; charset=utf-8"),
    ("csv", c"text/csv; charset=utf-8"),
    ("doc", c"application/msword"),
    ("docx", c"application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("eot", c"application/vnd.ms-fontobject"),
    ("epub", c"application/epub+zip"),
    ("flac", c"audio/flac"),
    ("gif", c"image/gif"),
    ("glb", c"model/gltf-binary"),
    ("gz", c"application/gzip"),
    ("htm", c"text/html; charset=utf-8"),
    ("html", c"text/html; charset=utf-8"),
    ("ico", c"image/x-icon"),
    ("ics", c"text/calendar; charset=utf-8"),
    ("jpeg", c"image/jpeg"),
    ("jpg", c"image/jpeg"),
    ("js", c"text/javascript; charset=utf-8"),
    ("json", c"application/json"),
    ("jsonld", c"application/ld+json"),
    ("log", c"text/plain; charset=utf-8"),
    ("m3u8", c"application/vnd.apple.mpegurl"),
    ("m4a", c"audio/mp4"),
    ("m4v", c"video/mp4"),
    ("map", c"application/json"),
    ("md", c"text/markdown; charset=utf-8"),
    ("mid", c"audio/midi"),
    ("mjs", c"text/javascript; charset=utf-8"),
    ("mkv", c"video/x-matroska"),
    ("mov", c"video/quicktime"),
    ("mp3", c"audio/mpeg"),
    ("mp4", c"video/mp4"),
    ("mpd", c"application/dash+xml"),
    ("mpeg", c"video/mpeg"),
    ("odp", c"application/vnd.oasis.opendocument.presentation"),
    ("ods", c"application/vnd.oasis.opendocument.spreadsheet"),
    ("odt", c"application/vnd.oasis.opendocument.text"),
    ("oga", c"audio/ogg"),
    ("ogg", c"audio/ogg"),
    ("ogv", c"video/ogg"),
    ("opus", c"audio/ogg"),
    ("otf", c"font/otf"),
    ("pdf", c"application/pdf"),
    ("png", c"image/png"),
    ("ppt", c"application/vnd.ms-powerpoint"),
    ("pptx", c"application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("rss", c"application/rss+xml"),
    ("rtf", c"application/rtf"),
    ("svg", c"image/svg+xml"),
    ("tar", c"application/x-tar"),
    ("tif", c"image/tiff"),
    ("tiff", c"image/tiff"),
    ("toml", c"application/toml"),
    ("ts", c"video/mp2t"),
    ("ttf", c"font/ttf"),
    ("txt", c"text/plain; charset=utf-8"),
    ("vtt", c"text/vtt; charset=utf-8"),
    ("wasm", c"application/wasm"),
    ("wav", c"audio/wav"),
    ("weba", c"audio/webm"),
    ("webm", c"video/webm"),
    ("webmanifest", c"application/manifest+json"),
    ("webp", c"image/webp"),
    ("woff", c"font/woff"),
    ("woff2", c"font/woff2"),
    ("xhtml", c"application/xhtml+xml"),
    ("xls", c"application/vnd.ms-excel"),
    ("xlsx", c"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("xml", c"application/xml"),
    ("xz", c"application/x-xz"),
    ("yaml", c"application/yaml"),
    ("yml", c"application/yaml"),
    ("zip", c"application/zip"),
    ("zst", c"application/zstd"),
];

/// The content type for a file by the extension of its name, for instance `text/html; charset=utf-8` for `x.html`, whatever its case;
/// `application/octet-stream` if it has none, or one that is not known.
pub fn content_type(path: &str) -> &'static str {
    of(path.as_bytes()).to_str().unwrap_or_default()
}

/// As [`content_type`], for C, and for paths of any bytes.
pub(crate) fn of(path: &[u8]) -> &'static CStr {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let Some(dot) = name.iter().rposition(|b| *b == b'.') else { return UNKNOWN };
    let extension = name[dot + 1..].to_ascii_lowercase();
    let found = TYPES.binary_search_by(|(known, _)| known.as_bytes().cmp(&extension));
    found.map_or(UNKNOWN, |at| TYPES[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_says_the_type() {
        for (path, expected) in [
            ("x.html", "text/html; charset=utf-8"),
            ("/srv/www/A.B/photo.JPG", "image/jpeg"),
            ("a.tar.gz", "application/gzip"),
            ("app.js", "text/javascript; charset=utf-8"),
            ("x.wasm", "application/wasm"),
            (".png", "image/png"),
        ] {
            assert_eq!(content_type(path), expected, "{path}");
        }
        for path in ["", "README", "a.", "x.html/y", "x.htmlx", ".", "dir.png/"] {
            assert_eq!(content_type(path), "application/octet-stream", "{path}");
        }
    }

    #[test]
    fn the_table_is_in_order() {
        assert!(TYPES.is_sorted_by(|(a, _), (b, _)| a < b));
        for (extension, found) in TYPES {
            assert_eq!(of(format!("x.{extension}").as_bytes()), found);
        }
    }
}
