//! The smallest server in Rust: `cargo run --release --example hello`, then `curl http://127.0.0.1:8080/`.

fn main() -> prefork::Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let workers = args.next().unwrap_or_else(|| "auto".into());
    prefork::Server::http(|_req, res| res.body("hello world\n"))
        .listen(address)
        .set("workers", &workers)
        .on_start(|started| println!("listening on http://{}", started.addresses.join(", http://")))
        .run()?;
    Ok(())
}
