//! Long messages that are held for the policy, and the budget that they share.

use super::policy::{find, insert, read_denial, scene_with_policy};
use super::*;
use crate::config::{Action, Enforcement, RuleConfig, ToConfig, Values};
use crate::relay::hold_budget::{Account, BudgetPermit, BudgetRequest};

/// Waits until the task of the relay has done what `is_done` looks for.
async fn until(what: &str, is_done: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if is_done() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{what}");
}

fn allow(commands: &str) -> RuleConfig {
    let commands = Values { any: Some(vec![commands.to_owned()]), not: None };
    RuleConfig {
        name: "allowed".to_owned(),
        action: Action::Allow,
        dry_run: false,
        expires: None,
        reason: None,
        from: None,
        to: Some(vec![ToConfig { commands, ..ToConfig::default() }]),
    }
}

#[tokio::test]
async fn a_long_command_that_no_rule_allows_is_denied_from_its_beginning_without_the_budget() {
    let cases = [
        (insert(1, "orders", 1_000_000), "deny (no allow rule) insert  1", "execute command insert: no allow rule"),
        (
            request(1, &doc! { "noSuchCommand": 1, "t": "x".repeat(1_000_000), "$db": "shop" }),
            "deny (not understood) noSuchCommand  1",
            "the command \"noSuchCommand\" is unknown",
        ),
    ];
    for (message, logged, errmsg) in cases {
        let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
        policy.set_rules(Enforcement::Enforce, vec![allow("find")]);
        let everything = policy.hold_budget().take_everything();
        let (end, ()) = play(scene, |mut client, mut upstream, _drain| async move {
            let (begun, rest) = message.split_at(200);
            client.write_all(begun).await.unwrap();
            until("it is denied", || policy.logged() == [logged]).await;
            client.write_all(rest).await.unwrap();
            let denial = read_denial(&mut client, 1).await;
            assert!(denial.get_str("errmsg").unwrap().contains(errmsg), "{denial}");
            client.write_all(&find(2, "orders")).await.unwrap();
            assert_eq!(read_message(&mut upstream).await, find(2, "orders"));
            upstream.write_all(&reply(90, 2)).await.unwrap();
            read_message(&mut client).await;
            drop(everything);
        })
        .await;
        assert_eq!((end.commands, end.denied), (1, 1));
    }
}

#[tokio::test]
async fn a_dry_run_denies_no_long_command() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    policy.set_rules(Enforcement::DryRun, vec![allow("find")]);
    play(scene, |mut client, mut upstream, _drain| async move {
        let long = insert(1, "orders", 100_000);
        let (written, arrived) = tokio::join!(client.write_all(&long), read_message(&mut upstream));
        written.unwrap();
        assert!(arrived == long);
        upstream.write_all(&reply(90, 1)).await.unwrap();
        read_message(&mut client).await;
    })
    .await;
}

#[tokio::test]
async fn a_message_takes_the_budget_as_it_arrives_and_not_as_it_claims() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    let budget = policy.hold_budget();
    play(scene, |mut client, mut upstream, _drain| async move {
        let long = insert(1, "orders", 8_000_000);
        for (from, to, held) in [(0, 100, 64), (100, 60_000, 64), (60_000, 100_000, 128), (100_000, 600_000, 1024)] {
            client.write_all(&long[from..to]).await.unwrap();
            until("the budget grows", || budget.held_bytes() == held * 1024).await;
        }
        let (written, whole) = tokio::join!(client.write_all(&long[600_000..]), read_message(&mut upstream));
        written.unwrap();
        assert!(whole == long);
        until("the budget is returned", || budget.held_bytes() == 0).await;
        upstream.write_all(&reply(90, 1)).await.unwrap();
        read_message(&mut client).await;
    })
    .await;
}

/// The share of the test's caller is used up except for 64 KiB, and another message has the reserve.
fn nearly_full(account: &Account) -> (BudgetPermit, BudgetPermit) {
    let shared = account.try_permit(account.share_bytes() - 64 * 1024).unwrap();
    (shared, BudgetRequest::default().permit(account, 1024 * 1024).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_message_that_has_arrived_in_part_waits_for_the_budget_without_a_deadline() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    let budget = policy.hold_budget();
    let (shared, reserve) = nearly_full(&budget.requests(&"test".into()));
    let (end, ()) = play(scene, |mut client, mut upstream, _drain| async move {
        let long = insert(1, "orders", 1_000_000);
        let arriving = async {
            // The paused clock advances when every task waits.
            let early = tokio::time::timeout(Duration::from_mins(5), upstream.read(&mut [0; 1])).await;
            assert!(early.is_err(), "{early:?}");
            // Its caller's share is still used up, and it gets the reserve.
            drop(reserve);
            read_message(&mut upstream).await
        };
        let (written, arrived) = tokio::join!(client.write_all(&long), arriving);
        written.unwrap();
        assert!(arrived == long);
        upstream.write_all(&reply(90, 1)).await.unwrap();
        read_message(&mut client).await;
    })
    .await;
    is(&end, Side::Client, "closed");
    drop(shared);
    drop(budget.take_everything());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_gets_its_next_part_has_to_arrive_then() {
    let (scene, policy) = scene_with_policy(Enforcement::Enforce).await;
    let budget = policy.hold_budget();
    let (_shared, reserve) = nearly_full(&budget.requests(&"test".into()));
    let started = Instant::now();
    let (end, _kept_open) = play(scene, |mut client, upstream, _drain| async move {
        // All that the first part of the budget has room for.
        client.write_all(&insert(1, "orders", 1_000_000)[..64 * 1024]).await.unwrap();
        tokio::time::sleep(Duration::from_mins(5)).await;
        drop(reserve);
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
        (client, upstream)
    })
    .await;
    assert!(matches!(end.reason, EndReason::TooSlow), "{end:?}");
    // Its time, and that in which it has waited.
    assert_eq!(started.elapsed().as_secs(), 5 * 60 + 11);
}
