//! The lines that a server prints when it has started: its addresses, its workers, options that are none, commands to try.

use prefork::config::Accept;
use prefork::{Config, Kind, Started};

/// What is said of a server whatever its addresses.
#[derive(Default)]
pub struct About {
    /// The handler's name.
    pub handler: String,
    /// True if the workers are programs, of which it is not known what they speak.
    pub is_program: bool,
    /// From [`distribution`].
    pub distribution: String,
    /// The arguments of the handler that are spelled as options of the program.
    pub no_options: Vec<String>,
    /// The arguments of the handler that are files of shared objects.
    pub no_handlers: Vec<String>,
    /// Nothing is printed.
    pub is_quiet: bool,
}

/// Prints the banner; a closed standard output does not stop a server.
pub fn print(started: &Started, about: &About) {
    if about.is_quiet {
        return;
    }
    // A reader that has stopped reading must not stop the server.
    prefork::log::print(&text(started, about));
}

/// Returns the setting by which connections are distributed among the workers.
pub fn distribution(config: &Config) -> String {
    if config.one_process {
        return "one process".into();
    }
    let name = if config.accept == Accept::Master { "dispatch" } else { "accept" };
    let setting = Config::settings().find(|setting| setting.name == name);
    setting.map_or_else(String::new, |setting| format!("{name} {}", (setting.show)(config)))
}

fn text(started: &Started, about: &About) -> String {
    let About { handler, is_program, distribution, no_options, no_handlers, .. } = about;
    let mut guessed = started.clone();
    guessed.kind = guess(*is_program, started.kind);
    guessed.kinds.iter_mut().for_each(|kind| *kind = guess(*is_program, *kind));
    let started = &guessed;
    let kinds = started.kinds.iter().copied().chain(std::iter::repeat(started.kind));
    let urls: Vec<_> = started.addresses.iter().zip(kinds).map(|(a, kind)| url(a, kind)).collect();
    let some = if started.workers == 1 { "worker" } else { "workers" };
    let mut lines = vec![
        format!("prefork {} listening on {}", env!("CARGO_PKG_VERSION"), urls.join(", ")),
        if *is_program {
            format!("{} {some} ({handler})", started.workers)
        } else {
            format!("{} {some} ({handler}), {distribution}", started.workers)
        },
    ];
    if !no_options.is_empty() {
        let words = no_options.join(" ");
        lines.push(format!(
            "{words}: for {handler}, behind which they stand; prefork's own options stand before it"
        ));
    }
    if !no_handlers.is_empty() {
        let words = no_handlers.join(" ");
        lines.push(format!(
            "{words}: for {handler}, behind which they stand; a server has one handler: start one for each"
        ));
    }
    lines.push(format!("try: {}", examples(started)));
    // A file name may contain a line break.
    lines.into_iter().map(|line| line.replace(char::is_control, "?") + "\n").collect()
}

/// What clients speak to a program is not known; HTTP, most likely.
fn guess(is_program: bool, kind: Kind) -> Kind {
    if is_program { Kind::Request } else { kind }
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
    let index = started.addresses.iter().position(|address| is_tcp(&address)).unwrap_or(0);
    let Some(address) = started.addresses.get(index) else { return "nothing: there is no address".into() };
    let is_http = *started.kinds.get(index).unwrap_or(&started.kind) == Kind::Request;
    if let Some(name) = address.strip_prefix("unix:@").map(quote) {
        return if is_http {
            format!("curl --abstract-unix-socket {name} http://localhost/")
        } else {
            format!("socat - ABSTRACT-CONNECT:{name}")
        };
    }
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
        text(&started(addresses, workers, kind), &about(&[]))
    }

    fn started(addresses: &[&str], workers: usize, kind: Kind) -> Started {
        let mut started = Started::default();
        started.addresses = addresses.iter().map(|a| (*a).to_owned()).collect();
        (started.workers, started.kind) = (workers, kind);
        started
    }

    fn about(no_options: &[&str]) -> About {
        About {
            handler: "hello.so".into(),
            is_program: false,
            distribution: distribution(&Config::default()),
            no_options: no_options.iter().map(|&word| word.into()).collect(),
            no_handlers: Vec::new(),
            is_quiet: false,
        }
    }

    #[test]
    fn an_option_behind_the_handler_is_told_before_the_last_line() {
        let started = started(&["[::1]:80"], 2, Kind::Stream);
        let text = text(&started, &about(&["-w", "--listen=:80"]));
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[2].starts_with("-w --listen=:80: for hello.so, behind"), "{text}");
        assert!(lines[3].starts_with("try: "), "{text}");
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
        assert_eq!(last(banner(&["[::1]:7"], 2, Kind::Stream)), "try: nc ::1 7");
        assert_eq!(last(banner(&["127.0.0.1:7"], 2, Kind::Blocking)), "try: nc 127.0.0.1 7");
        assert_eq!(last(banner(&["udp:[::]:7"], 2, Kind::Datagram)), "try: nc -u localhost 7");
        assert_eq!(last(banner(&["udp:[::]:7", "[::]:7"], 2, Kind::Stream)), "try: nc localhost 7");
        assert!(banner(&["udp:[::1]:7"], 2, Kind::Datagram).contains("listening on udp://[::1]:7\n"));
        assert_eq!(last(banner(&["unix:/run/a b"], 2, Kind::Stream)), "try: nc -U '/run/a b'");
        assert_eq!(last(banner(&["unix:@x"], 2, Kind::Stream)), "try: socat - ABSTRACT-CONNECT:x");
        assert_eq!(
            last(banner(&["unix:@x"], 2, Kind::Request)),
            "try: curl --abstract-unix-socket x http://localhost/"
        );
        assert_eq!(
            last(banner(&["unix:/run/x"], 2, Kind::Request)),
            "try: curl --unix-socket /run/x http://localhost/"
        );
        assert!(
            last(banner(&["[::1]:80"], 2, Kind::Request)).starts_with("try: curl 'http://[::1]:80/'   wrk")
        );
        assert!(banner(&["[::1]:7"], 2, Kind::Stream).contains("listening on tcp://[::1]:7\n"));
    }

    #[test]
    fn no_name_adds_a_line() {
        let started = started(&["unix:/a\nb"], 1, Kind::Stream);
        let about = About { handler: "x\ny.so".into(), ..About::default() };
        assert_eq!(text(&started, &about).lines().count(), 3);
    }
}
