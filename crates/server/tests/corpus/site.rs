//! A Kaplan in this process: a platform in a directory of its own behind the PostgreSQL wire.

use kaplan_base::SystemClock;
use kaplan_platform::{Platform, Settings};
use kaplan_server::{Options, Server};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::oneshot;

pub struct Site {
    pub platform: Platform,
    pub postgres: SocketAddr,
    dir: PathBuf,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

impl Site {
    pub async fn open(dir: &Path) -> Site {
        let settings = Settings {
            data_dir: dir.to_path_buf(),
            archive_interval_ms: 200,
            checkpoint_interval_ms: 1_000,
            ..Settings::default()
        };
        let platform = Platform::open(settings, Arc::new(SystemClock)).await.expect("open");
        let any = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let options = Options { http: None, postgres: any, ..Options::default() };
        let server = Server::bind(options).await.expect("bind");
        let postgres = server.postgres_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = server.run(platform.clone(), async {
            let _ = stopped.await;
        });
        let served = tokio::spawn(async move { serving.await.expect("serve") });
        Site { platform, postgres, dir: dir.to_path_buf(), stop, served }
    }

    pub async fn close(self) {
        let _ = self.stop.send(());
        let _ = self.served.await;
        self.platform.close().await.expect("close");
    }

    /// Stops as `kaplan start` does on a signal, and opens the directory again.
    pub async fn restart(self) -> Site {
        let dir = self.dir.clone();
        self.close().await;
        Site::open(&dir).await
    }
}
