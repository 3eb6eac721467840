//! Scratch.
use crate::wire::{Wire, field, kinds};
use crate::*;

async fn stub() -> (String, SocketAddr, oneshot::Sender<()>) {
    let any = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let options =
        Options { http: any, postgres: any, max_body_bytes: MAX_BODY_BYTES, ..Options::default() };
    let server = Server::bind(options).await.unwrap();
    let url = format!("http://{}", server.http_addr().unwrap());
    let postgres = server.postgres_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(server.run(Platform {}, async {
        let _ = stopped.await;
    }));
    (url, postgres, stop)
}

#[tokio::test]
async fn scratch_http() {
    let (url, _, _stop) = stub().await;
    let c = Client::new();
    for path in [
        "/livez",
        "/readyz",
        "/",
        "/metrics",
        "/v1/status",
        "/v1/views/v?_x=1",
        "/v1/views/%ff",
        "/v1/views/v?a=%ff",
        "/nope",
        "/v1/sql",
        "/v1/batch/runs/x",
    ] {
        let r = c.get(format!("{url}{path}")).send().await.unwrap();
        println!(
            "GET {path} {} {:?} {}",
            r.status(),
            r.headers().get("x-request-id"),
            r.text().await.unwrap()
        );
    }
    for (path, ct, body) in [
        ("/v1/sql", "text/plain", "select 1"),
        ("/v1/sql", "application/json", "{"),
        ("/v1/sql", "text/xml", "{"),
        ("/v1/streams/x/events", "text/csv", "a"),
        ("/v1/streams/x/events", "", "a"),
        ("/v1/batch/runs", "", "["),
    ] {
        let r = c
            .post(format!("{url}{path}"))
            .header("content-type", ct)
            .body(body)
            .send()
            .await
            .unwrap();
        println!("POST {path} {ct} {} {}", r.status(), r.text().await.unwrap());
    }
    for (size, encoding) in [(100 << 20, ""), (10, "br"), (10, "gzip")] {
        let mut r = c.post(format!("{url}/v1/sql")).header("content-type", "text/plain");
        if !encoding.is_empty() {
            r = r.header("content-encoding", encoding);
        }
        let r = r.body(vec![b' '; size]).send().await.unwrap();
        println!("POST big {size} {encoding} {} {}", r.status(), r.text().await.unwrap());
    }
}

#[tokio::test]
async fn scratch_pg() {
    let (_, pg, stop) = stub().await;
    let mut w = Wire::connect(pg).await;
    for sql in ["begin", "select 1", "begin; commit; select 1; begin", ";"] {
        let m = w.query(sql).await;
        println!("{sql}: {} {:?} {:?}", kinds(&m), field(&m, 'E', 'C'), field(&m, 'E', 'M'));
        let m = w.prepared(sql, &[]).await;
        println!("{sql}: {} {:?} {:?}", kinds(&m), field(&m, 'E', 'C'), field(&m, 'E', 'M'));
    }
    let out = tokio::process::Command::new("psql")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &pg.port().to_string(),
            "-U",
            "x",
            "-d",
            "x",
            "-c",
            "begin",
            "-c",
            "select 1",
            "-c",
            "commit",
        ])
        .output()
        .await
        .unwrap();
    println!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let _ = stop.send(());
}
