//! Joins a client's streams to a program's, or to a port inside a pod.

use skiff_cri::CriError;
use skiff_cri::streaming::{Session, Streaming};
use skiff_net::portforward::Forward;
use skiff_net::remotecommand::{Outcome, ServerStreams};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// Copies until the source ends or the sink is gone; either is the ordinary end of a stream.
async fn pump(source: Option<impl AsyncRead + Unpin>, sink: Option<impl AsyncWrite + Unpin>) {
    let (Some(mut source), Some(mut sink)) = (source, sink) else { return };
    if let Err(error) = tokio::io::copy(&mut source, &mut sink).await {
        tracing::debug!(%error, "a stream ended");
    }
    if let Err(error) = sink.shutdown().await {
        tracing::debug!(%error, "a stream's end was not taken");
    }
}

fn outcome(exit: Result<i32, CriError>) -> Outcome {
    match exit {
        Ok(0) => Outcome::Success,
        Ok(code) => {
            Outcome::Exit { code, message: format!("command terminated with non-zero exit code: exit status {code}") }
        }
        Err(error) => Outcome::Failed(error.message),
    }
}

/// Runs until the program ends or the client leaves. What the program wrote before its end is passed on before its exit
/// code is told.
pub async fn program(session: Result<Session, CriError>, mut streams: ServerStreams) {
    let session = match session {
        Ok(session) => session,
        Err(error) => return streams.finish(&Outcome::Failed(error.message)).await,
    };
    let Session { stdin, stdout, stderr, resize, exit } = session;
    let input = pump(streams.stdin.take(), stdin);
    let outputs = async {
        let (out, error) = (streams.stdout.take(), streams.stderr.take());
        tokio::join!(pump(stdout, out), pump(stderr, error));
    };
    let sizes = async {
        let (Some(mut sizes), Some(resize)) = (streams.resize.take(), resize) else { return };
        while let Some(size) = sizes.recv().await {
            if let Err(error) = resize(size.width, size.height) {
                tracing::debug!(%error, "terminal not resized");
            }
        }
    };
    let closed = streams.closed.clone();
    let ended = async { tokio::join!(exit, outputs).0 };
    let aside = async {
        tokio::join!(input, sizes);
        std::future::pending::<()>().await;
    };
    let exit = tokio::select! {
        exit = ended => Some(exit),
        () = aside => None,
        () = closed.cancelled() => None,
    };
    if let Some(exit) = exit {
        streams.finish(&outcome(exit)).await;
    }
}

/// Joins one forwarded connection to its port; why it cannot be is told on its error stream.
pub async fn connection(streaming: &dyn Streaming, sandbox: &str, mut forward: Forward) {
    match streaming.port_forward(sandbox, forward.port).await {
        Ok(mut port) => {
            if let Err(error) = tokio::io::copy_bidirectional(&mut forward.data, &mut port).await {
                tracing::debug!(%error, "a forwarded connection ended");
            }
        }
        Err(error) => {
            let told = forward.error.write_all(error.message.as_bytes()).await;
            if told.is_err() {
                tracing::debug!(%error, "the client left before it could be told");
            }
        }
    }
}
