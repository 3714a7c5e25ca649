//! Lists of tags and repositories, page by page.

use serde_json::{Value, json};

use crate::protocol::wire::{Answer, Berth, next, on_each_database, on_each_database_with};

/// In byte order, which is neither a language's nor that of a case-insensitive collation.
const TAGS: [&str; 9] = ["0", "10", "9", "A", "Z", "_", "a", "a-b", "aB"];

/// Follows the links from a path to the end; returns what each page has under `key`.
async fn pages(berth: &Berth, path: &str, key: &str) -> Vec<Value> {
    let mut pages = Vec::new();
    let mut path = Some(path.to_owned());
    while let Some(page) = path {
        let answer = berth.ask("GET", &page).await;
        pages.push(answer.is(200).json()[key].clone());
        path = next(&answer);
        assert!(pages.len() < 100, "the pages do not end");
    }
    pages
}

async fn push_tags(berth: &Berth) {
    let image = berth.push_image("team/app", TAGS[0], 1).await;
    // The other way round, so that no order is that of their coming.
    for tag in TAGS[1..].iter().rev() {
        let repository = berth.repository("team/app");
        repository.push_manifest(tag, crate::harness::layout::MANIFEST, &image.manifest).await;
    }
}

#[tokio::test]
async fn tags_are_listed_in_byte_order() {
    on_each_database(async |berth| {
        push_tags(berth).await;

        let answer = berth.ask("GET", "/v2/team/app/tags/list").await;

        assert_eq!(answer.is(200).json(), json!({"name": "team/app", "tags": TAGS}));
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(next(&answer), None);
    })
    .await;
}

#[tokio::test]
async fn pages_of_tags_are_followed_to_the_end() {
    on_each_database(async |berth| {
        push_tags(berth).await;
        for (n, sizes) in
            [(1, vec![1; 9]), (2, vec![2, 2, 2, 2, 1]), (3, vec![3, 3, 3]), (8, vec![8, 1]), (9, vec![9])]
        {
            let pages = pages(berth, &format!("/v2/team/app/tags/list?n={n}"), "tags").await;

            let lists: Vec<_> = pages.iter().map(|page| page.as_array().expect("a list")).collect();
            assert_eq!(lists.iter().map(|list| list.len()).collect::<Vec<_>>(), sizes);
            assert_eq!(lists.into_iter().flatten().collect::<Vec<_>>(), TAGS);
        }
    })
    .await;
}

#[tokio::test]
async fn a_list_goes_on_after_last_whether_or_not_that_is_there() {
    on_each_database(async |berth| {
        push_tags(berth).await;
        for (last, rest) in [
            ("9", &TAGS[3..]),
            ("B", &TAGS[4..]),
            ("", &TAGS[..]),
            ("aB", &[]),
            ("zzz", &[]),
            ("~", &[]),
            ("%C3%BC", &[]),
            ("%00", &TAGS[..]),
            ("9%00", &TAGS[3..]),
            ("%FF", &[]),
            ("%2F", &TAGS[..]),
            ("';--", &TAGS[..]),
        ] {
            let answer = berth.ask("GET", &format!("/v2/team/app/tags/list?last={last}")).await;
            assert_eq!(answer.is(200).json()["tags"], json!(rest), "{last}");
            assert_eq!(next(&answer), None);
        }
        let answer = berth.ask("GET", "/v2/team/app/tags/list?n=2&last=A").await;
        assert_eq!(answer.is(200).json()["tags"], json!(["Z", "_"]));
        assert!(next(&answer).is_some());
    })
    .await;
}

#[tokio::test]
async fn n_is_a_whole_number_and_has_a_limit() {
    let config = "[limits]\npage = 5";
    on_each_database_with(config, async |berth| {
        push_tags(berth).await;
        for path in ["/v2/team/app/tags/list", "/v2/_catalog"] {
            for n in ["-1", "", "+5", "5.0", "1e1", "0x5", "five", "%20", "5%00", "-0"] {
                let answer = berth.ask("GET", &format!("{path}?n={n}")).await;
                answer.is_refused(400, "PAGINATION_NUMBER_INVALID");
            }
        }
        for n in [
            "5",
            "6",
            "1000000",
            "18446744073709551615",
            "18446744073709551616",
            "99999999999999999999999999",
        ] {
            let answer = berth.ask("GET", &format!("/v2/team/app/tags/list?n={n}")).await;
            assert_eq!(answer.is(200).json()["tags"], json!(TAGS[..5]), "{n}");
            let rest = berth.ask("GET", &next(&answer).expect("there are more")).await;
            assert_eq!(rest.is(200).json()["tags"], json!(TAGS[5..]));
            assert_eq!(next(&rest), None);
        }
    })
    .await;
}

#[tokio::test]
async fn a_page_of_none_is_empty_and_the_last() {
    on_each_database(async |berth| {
        push_tags(berth).await;
        for (path, empty) in [
            ("/v2/team/app/tags/list", json!({"name": "team/app", "tags": []})),
            ("/v2/_catalog", json!({"repositories": []})),
        ] {
            for query in ["n=0", "n=0&last=A", "n=000"] {
                let answer = berth.ask("GET", &format!("{path}?{query}")).await;
                assert_eq!(answer.is(200).json(), empty);
                assert_eq!(next(&answer), None);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_tags_of_a_repository_nobody_pushed_to_are_unknown() {
    on_each_database(async |berth| {
        // A session makes no repository.
        berth.begin("team/begun").await;
        for name in ["team/none", "team/begun"] {
            for query in ["", "?n=0", "?last=x"] {
                let answer = berth.ask("GET", &format!("/v2/{name}/tags/list{query}")).await;
                answer.is_refused(404, "NAME_UNKNOWN");
            }
        }
        berth.repository("team/blobs").push_blob(b"a blob alone").await;
        let answer = berth.ask("GET", "/v2/team/blobs/tags/list").await;
        assert_eq!(answer.is(200).json(), json!({"name": "team/blobs", "tags": []}));
    })
    .await;
}

#[tokio::test]
async fn repositories_are_listed_in_byte_order_page_by_page() {
    const NAMES: [&str; 7] = ["0", "a", "a-b", "a.b", "a/b", "a_b", "ab"];
    on_each_database(async |berth| {
        let list = async |query: &str| -> Answer { berth.ask("GET", &format!("/v2/_catalog{query}")).await };
        assert_eq!(list("").await.is(200).json(), json!({"repositories": []}));
        for name in NAMES.iter().rev() {
            berth.repository(name).push_blob(b"shared bytes").await;
        }

        assert_eq!(list("").await.is(200).json(), json!({"repositories": NAMES}));
        for n in 1..=8 {
            let pages = pages(berth, &format!("/v2/_catalog?n={n}"), "repositories").await;
            assert_eq!(pages.len(), NAMES.len().div_ceil(n));
            let all: Vec<_> = pages.iter().flat_map(|page| page.as_array().expect("a list")).collect();
            assert_eq!(all, NAMES);
        }
        for (query, found) in [
            ("?last=a-b", &NAMES[3..]),
            ("?last=a-c&n=2", &NAMES[3..5]),
            ("?last=%00", &NAMES),
            ("?last=b", &[]),
        ] {
            assert_eq!(list(query).await.is(200).json()["repositories"], json!(found), "{query}");
        }
    })
    .await;
}
