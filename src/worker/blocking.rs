//! Connections in blocking style: one after the other, each for as long as its handler takes.

use super::conn::Conn;
use super::engine::Context;
use crate::scoreboard::Word;

/// Has the handler serve a connection to its end, and closes it.
pub fn serve(conn: &mut Conn, cx: &mut Context<'_>) {
    let result = cx.call(|handler| handler.on_connection(conn));
    cx.page.add(if result.is_some() { Word::Requests } else { Word::Errors }, 1);
    conn.drop_unread();
    conn.end();
}
