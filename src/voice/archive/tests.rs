//! Addresses, copies and errors of archives.

use object_store::memory::InMemory;

use super::*;
use crate::voice::fetch::FetchError;
use crate::voice::recording::Recording;

#[tokio::test]
async fn a_copy_has_its_content_type_and_is_not_patched_together_from_two() {
    let archive = Archive {
        store: Arc::new(InMemory::new()),
        root: "s3://bucket".to_owned(),
        prefix: Path::from("a"),
        folder: None,
    };
    let path = archive.path("c.wav").unwrap();
    let write = async |byte: u8| {
        let mut upload = archive.upload(&path, "audio/x-wav");
        upload.put(vec![byte; 3 << 20].into()).await.unwrap();
        upload.finish().await.unwrap();
    };
    write(1).await;
    let read = archive.read(&archive.url(&path), 1000).await;
    let mut copy = Recording::Kept(read.unwrap().unwrap());
    assert_eq!(
        (copy.size(), copy.content_type()),
        (Some(3 << 20), "audio/x-wav")
    );
    let first = copy.next().await.unwrap().unwrap();
    assert!(first.iter().all(|byte| *byte == 1));
    assert_eq!(copy.position(), 1000 + first.len() as u64);
    write(2).await;
    assert_eq!(copy.next().await, Err(FetchError::Changed));
}

#[test]
fn what_a_bucket_answers_is_not_told() {
    let refused = std::io::Error::other(
        "Generic S3 error: Error performing PUT http://bucket/a in 3ms - Server returned \
         non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?><Error><AWSAccessKeyId>\
         hush</AWSAccessKeyId></Error>",
    );
    let told = told(&refused);
    assert!(told.ends_with("403 Forbidden"), "{told}");
    assert!(!told.contains("hush"), "{told}");
}

#[test]
fn an_address_is_of_the_archive_that_told_it_and_of_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let open = |url: &str| {
        Archive::open(&ArchiveOptions {
            url: url.to_owned(),
            s3: S3Options {
                region: Some("a".to_owned()),
                ..S3Options::default()
            },
        })
        .unwrap()
    };
    let bucket = open("s3://bucket/a/b");
    let beside = open("s3://bucket/a");
    let kept = open(&format!("file://{}/kept", folder.path().display()));
    for archive in [&bucket, &kept] {
        let path = archive.path("default/名-1.wav").unwrap();
        let url = archive.url(&path);
        assert_eq!(archive.path_of(&url), Some(path));
    }
    let url = bucket.url(&bucket.path("c.wav").unwrap());
    assert!(beside.path_of(&url).is_some() && kept.path_of(&url).is_none());
    for elsewhere in [
        "",
        "s3://bucket/a/bc/d.wav",
        "s3://bucket/a/b/../../d.wav",
        "s3://bucket2/a/b/d.wav",
        "file:///etc/passwd",
    ] {
        assert_eq!(bucket.path_of(elsewhere), None, "{elsewhere}");
        assert_eq!(kept.path_of(elsewhere), None, "{elsewhere}");
    }
    let up = format!("file://{}/kept/../b.wav", folder.path().display());
    assert_eq!(kept.path_of(&up), None);
}
