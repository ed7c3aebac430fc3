//! A body as messages of a WebSocket, for clients that can do nothing else (`apimachinery/.../wsstream/stream.go`): a log
//! that a browser follows.

use crate::Body;
use crate::io::BoxDuplex;
use crate::websocket::{self, Message, Role, Writer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use skiff_base::task::{OnFailure, Supervisor};

const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";
/// A regular end.
const NORMAL: u16 = 1000;

/// The answer to a WebSocket handshake; what `body` brings is then sent in messages. A client that offers no sub-protocol
/// gets bytes.
pub fn answer(mut request: Request<()>, body: Body, supervisor: &Supervisor) -> Response<Body> {
    let refuse = |why: &'static str| {
        let mut answer = Response::new(Body::from(why));
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        answer
    };
    let offered = websocket::protocols(request.headers());
    let chosen = [BINARY, BASE64].into_iter().find(|served| offered.iter().any(|one| one == served));
    if chosen.is_none() && !offered.is_empty() {
        return refuse("unable to upgrade: no sub-protocol that is served here was offered\n");
    }
    let answer = match websocket::accept(&request, chosen) {
        Ok(answer) => answer,
        Err(refusal) => return *refusal,
    };
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return refuse("unable to upgrade: this connection cannot change protocols\n");
    };
    let base64 = chosen == Some(BASE64);
    supervisor.spawn_abortable("body over a WebSocket", OnFailure::Forget, async move {
        let io: BoxDuplex = match upgrade.await {
            Ok(upgraded) => Box::new(TokioIo::new(upgraded)),
            Err(error) => return tracing::debug!(%error, "the client did not change protocols"),
        };
        if let Err(error) = send(io, body, base64).await {
            tracing::debug!(%error, "a body over a WebSocket ended early");
        }
    });
    answer
}

async fn write(to: &mut Writer, base64: bool, bytes: &[u8]) -> Result<(), websocket::WebSocketError> {
    if base64 { to.text(&[STANDARD.encode(bytes).as_bytes()]).await } else { to.binary(&[bytes]).await }
}

async fn send(io: BoxDuplex, mut body: Body, base64: bool) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (mut from, mut to) = websocket::split(io, Role::Server);
    // The other side is told at once that something will come.
    write(&mut to, base64, &[]).await?;
    let copy = async {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data()
                && !data.is_empty()
            {
                write(&mut to, base64, &data).await?;
            }
        }
        to.write(&Message::Close(Some(NORMAL))).await?;
        to.shutdown().await?;
        Ok(())
    };
    let gone = async {
        // Nothing that it says means anything, but that it goes.
        while let Ok(Some(message)) = from.read().await {
            if matches!(message, Message::Close(_)) {
                return;
            }
        }
    };
    tokio::select! {
        outcome = copy => outcome,
        () = gone => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::split;

    async fn sent(base64: bool) -> Vec<Message> {
        let (near, far) = tokio::io::duplex(1024);
        let sending = send(Box::new(near), Body::from("one line\n"), base64);
        let (mut from, _to) = split(Box::new(far), Role::Client);
        let mut messages = Vec::new();
        let reading = async {
            while let Ok(Some(message)) = from.read().await {
                let last = matches!(message, Message::Close(_));
                messages.push(message);
                if last {
                    break;
                }
            }
        };
        let (outcome, ()) = tokio::join!(sending, reading);
        outcome.unwrap();
        messages
    }

    #[tokio::test]
    async fn a_body_is_messages_and_a_close() {
        let end = Message::Close(Some(NORMAL));
        let bytes = [Message::Binary("".into()), Message::Binary("one line\n".into()), end.clone()];
        assert_eq!(sent(false).await, bytes);
        let text = [Message::Text("".into()), Message::Text(STANDARD.encode("one line\n").into()), end];
        assert_eq!(sent(true).await, text);
    }
}
