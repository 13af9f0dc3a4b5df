//! The three lines that a server prints when it has started: its addresses, its workers, commands to try.

use prefork::config::Accept;
use prefork::{Config, Kind, Started};

/// Prints the banner; a closed standard output does not stop a server. `distribution` is from [`distribution`].
pub fn print(started: &Started, handler: &str, distribution: &str) {
    // A reader that has stopped reading must not stop the server.
    prefork::log::print(&text(started, handler, distribution));
}

/// Returns the setting by which connections are distributed among the workers.
pub fn distribution(config: &Config) -> String {
    let name = if config.accept == Accept::Master { "dispatch" } else { "accept" };
    let setting = Config::settings().find(|setting| setting.name == name);
    setting.map_or_else(String::new, |setting| format!("{name} {}", (setting.show)(config)))
}

fn text(started: &Started, handler: &str, distribution: &str) -> String {
    let urls: Vec<_> = started.addresses.iter().map(|a| url(a, started.kind)).collect();
    let some = if started.workers == 1 { "worker" } else { "workers" };
    let lines = [
        format!("prefork {} listening on {}", env!("CARGO_PKG_VERSION"), urls.join(", ")),
        format!("{} {some} ({handler}), {distribution}", started.workers),
        format!("try: {}", examples(started)),
    ];
    // A file name may contain a line break.
    lines.map(|line| line.replace(char::is_control, "?") + "\n").concat()
}

fn url(address: &str, kind: Kind) -> String {
    match (address.strip_prefix("udp:"), kind) {
        (Some(address), _) => format!("udp://{address}"),
        (None, _) if address.starts_with("unix:") => address.into(),
        (None, Kind::Request) => format!("http://{address}"),
        (None, _) => format!("tcp://{address}"),
    }
}

/// Returns commands for the first TCP address, or else for the first address.
fn examples(started: &Started) -> String {
    let is_tcp = |a: &&String| !a.starts_with("unix:") && !a.starts_with("udp:");
    let address = started.addresses.iter().find(is_tcp).or(started.addresses.first());
    let Some(address) = address else { return "nothing: there is no address".into() };
    let is_http = started.kind == Kind::Request;
    if let Some(path) = address.strip_prefix("unix:").map(quote) {
        return if is_http {
            format!("curl --unix-socket {path} http://localhost/")
        } else {
            format!("nc -U {path}")
        };
    }
    let udp = address.strip_prefix("udp:");
    let (host, port) = udp.unwrap_or(address).rsplit_once(':').unwrap_or((address, ""));
    // A client cannot connect to a wildcard.
    let host = if matches!(host, "0.0.0.0" | "[::]") { "localhost" } else { host };
    if is_http && udp.is_none() {
        let url = quote(&format!("http://{host}:{port}/"));
        return format!("curl {url}   wrk -t2 -c64 {url}");
    }
    let option = if udp.is_some() { "-u " } else { "" };
    format!("nc {option}{} {port}", host.trim_matches(['[', ']']))
}

/// Quotes a word unless a shell would take it literally.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:._-+@%,=".contains(c);
    if word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner(addresses: &[&str], workers: usize, kind: Kind) -> String {
        let addresses = addresses.iter().map(|a| (*a).to_owned()).collect();
        text(&Started { addresses, workers, kind }, "hello.so", &distribution(&Config::default()))
    }

    #[test]
    fn a_web_server_is_tried_with_curl_and_wrk() {
        assert_eq!(
            banner(&["unix:/run/x", "127.0.0.1:8080"], 8, Kind::Request),
            concat!(
                "prefork ",
                env!("CARGO_PKG_VERSION"),
                " listening on unix:/run/x, http://127.0.0.1:8080\n",
                "8 workers (hello.so), dispatch round-robin\n",
                "try: curl http://127.0.0.1:8080/   wrk -t2 -c64 http://127.0.0.1:8080/\n",
            )
        );
    }

    #[test]
    fn a_wildcard_is_shown_as_bound_and_tried_as_localhost() {
        for wildcard in ["[::]:8080", "0.0.0.0:8080"] {
            let text = banner(&[wildcard], 1, Kind::Request);
            assert!(text.contains(&format!("listening on http://{wildcard}\n1 worker (")), "{text}");
            assert!(text.contains("try: curl http://localhost:8080/   wrk"), "{text}");
        }
    }

    #[test]
    fn other_kinds_of_servers_and_sockets_are_tried_with_their_tools() {
        let last = |text: String| text.lines().last().unwrap().to_owned();
        assert_eq!(last(banner(&["[::1]:7"], 2, Kind::Data)), "try: nc ::1 7");
        assert_eq!(last(banner(&["127.0.0.1:7"], 2, Kind::Connection)), "try: nc 127.0.0.1 7");
        assert_eq!(last(banner(&["udp:[::]:7"], 2, Kind::Datagram)), "try: nc -u localhost 7");
        assert_eq!(last(banner(&["udp:[::]:7", "[::]:7"], 2, Kind::Data)), "try: nc localhost 7");
        assert!(banner(&["udp:[::1]:7"], 2, Kind::Datagram).contains("listening on udp://[::1]:7\n"));
        assert_eq!(last(banner(&["unix:/run/a b"], 2, Kind::Data)), "try: nc -U '/run/a b'");
        assert_eq!(
            last(banner(&["unix:/run/x"], 2, Kind::Request)),
            "try: curl --unix-socket /run/x http://localhost/"
        );
        assert!(
            last(banner(&["[::1]:80"], 2, Kind::Request)).starts_with("try: curl 'http://[::1]:80/'   wrk")
        );
        assert!(banner(&["[::1]:7"], 2, Kind::Data).contains("listening on tcp://[::1]:7\n"));
    }

    #[test]
    fn no_name_adds_a_line() {
        let started = Started { addresses: vec!["unix:/a\nb".into()], workers: 1, kind: Kind::Data };
        assert_eq!(text(&started, "x\ny.so", "").lines().count(), 3);
    }
}
