//! The smallest server in Rust: `cargo run --release --example hello`, then `curl http://127.0.0.1:8080/`.

fn main() -> prefork::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".into());
    prefork::Server::http(|_req, res| res.body("hello world\n"))
        .listen(address)
        .on_start(|started| println!("listening on http://{}", started.addresses.join(", http://")))
        .run()?;
    Ok(())
}
