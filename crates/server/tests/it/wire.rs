//! A client of the PostgreSQL protocol that shows the messages as they come.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) struct Wire {
    socket: TcpStream,
    /// What the last ReadyForQuery said: `I`, `T` or `E`.
    pub(crate) status: char,
}

/// One message of the server: its type and body.
pub(crate) type Message = (char, Vec<u8>);

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Wire {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut wire = Wire { socket, status: 'I' };
        let mut startup = 196_608_i32.to_be_bytes().to_vec();
        startup.extend(b"user\0test\0database\0test\0\0");
        let length = i32::try_from(startup.len() + 4).unwrap();
        wire.socket.write_all(&length.to_be_bytes()).await.unwrap();
        wire.socket.write_all(&startup).await.unwrap();
        wire.until_ready().await;
        wire
    }

    pub(crate) async fn send(&mut self, kind: char, body: &[u8]) {
        let length = i32::try_from(body.len() + 4).unwrap();
        let mut message = vec![u8::try_from(kind).unwrap()];
        message.extend(length.to_be_bytes());
        message.extend(body);
        self.socket.write_all(&message).await.unwrap();
    }

    /// The messages up to ReadyForQuery, without it.
    pub(crate) async fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let kind = char::from(self.socket.read_u8().await.unwrap());
            let length = usize::try_from(self.socket.read_i32().await.unwrap()).unwrap() - 4;
            let mut body = vec![0; length];
            self.socket.read_exact(&mut body).await.unwrap();
            if kind == 'Z' {
                self.status = char::from(body[0]);
                return messages;
            }
            messages.push((kind, body));
        }
    }

    /// A simple query.
    pub(crate) async fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send('Q', format!("{sql}\0").as_bytes()).await;
        self.until_ready().await
    }

    /// The head of a message of this length; what is answered until the connection ends.
    pub(crate) async fn announce(&mut self, kind: char, length: u32) -> Vec<Message> {
        self.socket.write_all(&[u8::try_from(kind).unwrap()]).await.unwrap();
        self.socket.write_all(&length.to_be_bytes()).await.unwrap();
        let mut messages = Vec::new();
        while let Ok(kind) = self.socket.read_u8().await {
            let length = usize::try_from(self.socket.read_i32().await.unwrap()).unwrap() - 4;
            let mut body = vec![0; length];
            self.socket.read_exact(&mut body).await.unwrap();
            messages.push((char::from(kind), body));
        }
        messages
    }

    /// Parse and describe: the oids of the parameters and of the columns.
    pub(crate) async fn describe(&mut self, sql: &str) -> (String, String) {
        let mut parse = format!("\0{sql}\0").into_bytes();
        parse.extend([0, 0]);
        self.send('P', &parse).await;
        self.send('D', b"S\0").await;
        self.send('S', &[]).await;
        let messages = self.until_ready().await;
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()).to_string();
        let (mut given, mut columns) = (Vec::new(), Vec::new());
        for (kind, body) in messages {
            assert_ne!(kind, 'E', "{sql}: {}", String::from_utf8_lossy(&body));
            if kind == 't' {
                given.extend(body[2..].chunks(4).map(number));
            }
            if kind == 'T' {
                let mut rest = &body[2..];
                while let Some(end) = rest.iter().position(|byte| *byte == 0) {
                    columns.push(number(&rest[end + 7..end + 11]));
                    rest = &rest[end + 19..];
                }
            }
        }
        (given.join(" "), columns.join(" "))
    }

    /// Parse, bind, describe the portal, execute, sync; parameters in text format.
    pub(crate) async fn prepared(&mut self, sql: &str, values: &[&str]) -> Vec<Message> {
        let mut parse = format!("\0{sql}\0").into_bytes();
        parse.extend([0, 0]);
        self.send('P', &parse).await;
        let mut bind = vec![0, 0, 0, 0];
        bind.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
        for value in values {
            bind.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
            bind.extend(value.as_bytes());
        }
        bind.extend([0, 0]);
        self.send('B', &bind).await;
        self.send('D', b"P\0").await;
        self.send('E', &[0, 0, 0, 0, 0]).await;
        self.send('S', &[]).await;
        self.until_ready().await
    }
}

/// The kinds of the messages, in order.
pub(crate) fn kinds(messages: &[Message]) -> String {
    messages.iter().map(|(kind, _)| kind).collect()
}

/// The text values of the first row.
pub(crate) fn first_row(messages: &[Message]) -> Vec<String> {
    let (_, body) = messages.iter().find(|(kind, _)| *kind == 'D').expect("a row");
    let (mut at, mut values) = (2, Vec::new());
    while at < body.len() {
        let length = i32::from_be_bytes(body[at..at + 4].try_into().unwrap());
        at += 4;
        let length = usize::try_from(length).unwrap_or(0);
        values.push(String::from_utf8(body[at..at + length].to_vec()).unwrap());
        at += length;
    }
    values
}

/// The fields of the first error or notice: `C` is the code, `M` the message, `H` the hint.
pub(crate) fn field(messages: &[Message], kind: char, field: char) -> Option<String> {
    let (_, body) = messages.iter().find(|(k, _)| *k == kind)?;
    body.split(|byte| *byte == 0)
        .find(|f| f.first().copied().map(char::from) == Some(field))
        .map(|f| String::from_utf8_lossy(&f[1..]).into_owned())
}
