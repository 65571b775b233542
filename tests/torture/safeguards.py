"""The table of safeguards: each one is taken out of a copy of the program, and a named test must then fail.

A safeguard is an entry of ``SAFEGUARDS``: the text in the source that makes it, what stands there without it, and the
test that notices. A text that is not found exactly once is an error: the table follows the code. First all the tests
are run on an untouched copy, and must pass.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = [
    "SAFEGUARDS",
    "Safeguard",
    "TableError",
    "collect",
    "main",
    "places",
    "take_out",
    "try_untouched",
]

ROOT = Path(__file__).parents[2]

PATIENCE_SECONDS = 120.0
"""A run that lasts longer hangs. The slowest of the tests takes some seconds."""

COPY, REPORTS = "XOTS_SAFEGUARDS_COPY", "XOTS_SAFEGUARDS_REPORTS"
"""Told to the run: where the copy is that must be imported, and where to write what came of each test."""

STORY = "tests/test_keeper.py::test_"
LIFE = "tests/test_lifecycle.py::test_"
FILE = "tests/test_store_file.py::test_"
REDIS = "tests/test_store_redis.py::test_"
CONTRACT = "tests/test_store_contract.py::"


@dataclass(frozen=True)
class Safeguard:
    """One line of the table."""

    name: str
    protects_from: str
    file: str
    """Below ``xots/``."""
    old: str
    new: str
    test: str
    """Its node id; without the brackets of a parametrised one, all its cases are run."""
    hangs: bool = False
    """Does the test hang without the safeguard? Else a run that lasts too long proves nothing."""


class TableError(Exception):
    """The table does not fit the code, or a test of it fails or does not run on the untouched code."""


SAFEGUARDS = (
    # ---- one refresh at a time
    Safeguard(
        "re-read under the lease",
        "acting on what another process has changed since: here, revoking its new login",
        "keeper.py",
        "                await self._record.read()\n                yield lease",
        "                yield lease",
        STORY + "another_processs_login_cancels_a_pending_revocation",
    ),
    Safeguard(
        "callers share one refresh",
        "a crowd of callers that queues for the lease, one after the other",
        "keeper.py",
        "if ours := under_way is None:",
        "if ours := True:",
        STORY + "many_callers_take_the_lease_once",
    ),
    Safeguard(
        "shield of a refresh",
        "a caller who hangs up in the middle, and takes the answer with him",
        "keeper.py",
        "done, _ = await asyncio.wait([under_way], timeout=SERVED_PATIENCE_SECONDS)",
        "await under_way\n        done, _ = await asyncio.wait([under_way], timeout=SERVED_PATIENCE_SECONDS)",
        STORY + "a_caller_who_goes_away_does_not_end_the_refresh",
    ),
    Safeguard(
        "shield of a login and its end",
        "a browser that is closed in the middle of a login",
        "keeper.py",
        "return await asyncio.shield(self._begin(work))",
        "return await self._begin(work)",
        STORY + "a_browser_that_goes_away_does_not_end_the_login",
    ),
    Safeguard(
        "lease lost: looked at before sending",
        "a process that slept, and spends what another one has spent meanwhile",
        "keeper.py",
        "                    if lease.lost:\n                        return\n",
        "",
        STORY + "whoever_lost_his_lease_while_he_wrote_the_intent_sends_nothing",
    ),
    Safeguard(
        "lease lost: looked at before an end's last refresh",
        "the same, at the end of a login",
        "keeper.py",
        "        if not lease.lost:\n            await self._spend(begun, token, lease)",
        "        await self._spend(begun, token, lease)",
        STORY + "whoever_lost_his_lease_concludes_no_intent_at_an_end",
    ),
    Safeguard(
        "lease lost: looked at before revoking",
        "revoking the new login of somebody who took the lease meanwhile",
        "keeper.py",
        "if lease.lost or self._foreign:",
        "if self._foreign:",
        STORY + "whoever_lost_his_lease_revokes_nothing",
    ),
    Safeguard(
        "revocation only once the end is written",
        "a login that goes on here and is dead at Xero, if the process dies in between",
        "keeper.py",
        "return False  # who died now would leave a login that Xero has ended",
        "pass",
        STORY + "xero_is_not_told_of_an_end_that_is_not_written",
    ),
    Safeguard(
        "lease ends by its holder's own clock",
        "a process that was stopped, and does not know that its lease ran out",
        "backends/base.py",
        "return self._lost or (self._ends_at is not None and seconds_since_boot() >= self._ends_at)",
        "return self._lost",
        REDIS + "a_holder_that_was_stopped_knows_at_once_that_it_lost",
    ),
    Safeguard(
        "lease ends while its machine is suspended",
        "a laptop that wakes up with an intent of yesterday, and spends its token",
        "backends/base.py",
        'time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()',
        "time.monotonic()",
        STORY + "who_was_suspended_with_the_lease_spends_nothing",
    ),
    Safeguard(
        "another secret only while the lease lasts",
        "a second try, hours after the first, that ends another process's login",
        "keeper.py",
        "if lease.lost or not (isinstance(outcome, ClientRefused)",
        "if not (isinstance(outcome, ClientRefused)",
        STORY + "who_slept_past_his_lease_tries_no_other_secret",
    ),
    Safeguard(
        "lease that another holds is lost",
        "two that act at once, after a fail-over of Redis has lost the lease",
        "backends/redis.py",
        "            lease.lose()",
        "            pass",
        REDIS + "a_lease_that_somebody_else_took_is_lost",
    ),
    Safeguard(
        "lease of Redis renewed",
        "a slow refresh that outlives its lease",
        "backends/redis.py",
        "await lock.extend(ttl_seconds, replace_ttl=True)",
        "pass",
        REDIS + "a_lease_excludes_other_processes",
    ),
    Safeguard(
        "lease of Redis has an end",
        "a killed holder that locks out all others for ever",
        "backends/redis.py",
        "timeout=ttl_seconds)",
        "timeout=None)",
        REDIS + "a_lease_has_an_end_in_redis",
    ),
    Safeguard(
        "lease of the file store (flock)",
        "two processes that refresh at once",
        "backends/file.py",
        "return held.take(self._open(folder, name + LEASE, os.O_RDWR | os.O_CREAT))",
        "return True",
        CONTRACT + "TestFileStore::test_a_lease_excludes",
    ),
    Safeguard(
        "lease of the memory store",
        "two keepers of one process that refresh at once",
        "backends/memory.py",
        "async with self._locks[name]:",
        "if True:",
        CONTRACT + "TestMemoryStore::test_a_lease_excludes",
    ),
    Safeguard(
        "lease of a store without a lock of its own",
        "two processes that refresh at once, on a store that somebody else wrote",
        "backends/base.py",
        "if not 0 < until - time.time() <= ttl_seconds:",
        "if True:",
        CONTRACT + "TestSqliteExample::test_a_lease_is_renewed_while_it_is_held",
    ),
    # ---- the intent
    Safeguard(
        "intent written before the spend",
        "a crash after Xero committed, of which nobody knows that the token was spent",
        "keeper.py",
        "begun = await self._record.save(lifecycle.begin_refresh(found, token, by=self._process, now=now))",
        "begun = lifecycle.begin_refresh(found, token, by=self._process, now=now)",
        STORY + "a_refresh_cut_off_by_a_crash_is_taken_up",
    ),
    Safeguard(
        "intent durable before the request is sent",
        "a request that overtakes the write of its intent",
        "keeper.py",
        "begun = await self._record.save(lifecycle.begin_refresh(found, token, by=self._process, now=now))",
        "begun = lifecycle.begin_refresh(found, token, by=self._process, now=now)\n"
        "        self._begin(self._record.save(begun))",
        STORY + "xero_is_asked_once_the_store_has_acknowledged_the_intent",
    ),
    Safeguard(
        "no spend when the intent can't be written",
        "a full disk: a token that is spent, and whose successor can't be kept",
        "keeper.py",
        "begun = await self._record.save(lifecycle.begin_refresh(found, token, by=self._process, now=now))",
        "begun = lifecycle.begin_refresh(found, token, by=self._process, now=now)\n"
        "        await self._record.keep(begun, after=found)\n"
        "        begun = self.account",
        STORY + "no_token_is_spent_when_the_intent_can_not_be_written",
    ),
    Safeguard(
        "an open intent is due at once",
        "a lost answer that is asked for only when the grace is over",
        "lifecycle.py",
        "at_once = bool(account.intent or access is None",
        "at_once = bool(access is None",
        LIFE + "an_open_intent_of_tomorrows_clock_is_due_now",
    ),
    Safeguard(
        "a spent current token is due at once",
        "a lost answer that is asked for only when the grace is over, since a rival was tried in between",
        "lifecycle.py",
        "(current.refused_at or current.first_spent_at)))",
        "current.refused_at))",
        LIFE + "a_current_token_that_was_spent_is_due_at_once",
    ),
    Safeguard(
        "another token's try leaves the doubt open",
        "a 429 that puts off for an hour what must be known within the grace",
        "lifecycle.py",
        "doubted = open_one.doubted if open_one.fingerprint == fingerprint else open_one.fingerprint",
        "doubted = None",
        STORY + "a_doubt_stays_open_when_another_token_is_not_spent",
    ),
    Safeguard(
        "a wait of one's own ends soon",
        "a 429 of an hour that outlasts a new login, whose lost answer nobody then asks for",
        "keeper.py",
        "min(wait, self.policy.longest_backoff).total_seconds()",
        "wait.total_seconds()",
        STORY + "a_wait_of_ones_own_ends_soon_where_others_have_gone_on",
    ),
    Safeguard(
        "an answer's life counts by the clock that can't be set",
        "a token that is dead when its answer is heard, and served since the clock was mended meanwhile",
        "keeper.py",
        "concluded = lifecycle.ending_within(concluded, timedelta(seconds=left), now)\n            ",
        "",
        STORY + "an_answer_that_was_slept_through_is_dead_whatever_the_clock_was_set_to",
    ),
    Safeguard(
        "each waits for itself",
        "two hosts with different clocks, that free each other from every wait",
        "keeper.py",
        "return Wait(now + self._rest) if self._rest and isinstance(step, Spend) else step",
        "return step",
        STORY + "hosts_whose_clocks_differ_do_not_free_each_other_from_a_wait",
    ),
    Safeguard(
        "each waits for itself (revocation)",
        "the same, with a login that Xero is to end",
        "keeper.py",
        "return not self._rest and lifecycle.revocation_due(",
        "return lifecycle.revocation_due(",
        STORY + "hosts_whose_clocks_differ_do_not_free_each_other_from_a_revocations_wait",
    ),
    Safeguard(
        "unknown keeps the intent",
        "a lost answer that is forgotten",
        "lifecycle.py",
        'return _failed(account, outcome, "unknown"',
        'return _failed(replace(account, intent=None), outcome, "unknown"',
        LIFE + "unknown_keeps_everything_open",
    ),
    Safeguard(
        "a sent body makes no answer an unknown",
        "a token that counts as unspent although Xero took it",
        "xero.py",
        'if begun else NotSent(detail=f"can',
        'if False else NotSent(detail=f"can',
        "tests/test_xero.py::test_each_fault_has_its_outcome[hold-after-Unknown]",
    ),
    Safeguard(
        "first-spent time never moved later (a retry)",
        "a grace that seems to begin anew with each try",
        "lifecycle.py",
        "stamped, fingerprint, open_one = token.first_spent_at is None, ",
        "stamped, fingerprint, open_one = True, ",
        LIFE + "unknown_keeps_everything_open",
    ),
    Safeguard(
        "first-spent time never moved later (a merge)",
        "the same, where two records are united",
        "lifecycle.py",
        "first_spent_at=min(spent, default=None)",
        "first_spent_at=max(spent, default=None)",
        LIFE + "tokens_of_one_consent_are_united",
    ),
    Safeguard(
        "not-sent undoes only its own stamp",
        "a later try that was not sent, and hides that an earlier one was",
        "lifecycle.py",
        "if account.intent is None or not account.intent.stamped:",
        "if account.intent is None:",
        LIFE + "it_does_not_undo_an_earlier_unknown",
    ),
    Safeguard(
        "intent concluded before a revoke",
        "a successor that was issued, was lost, and lives on after the logout",
        "keeper.py",
        "await self._conclude_intent(lease)",
        "pass",
        STORY + "an_open_intent_is_concluded_before_a_revoke",
    ),
    Safeguard(
        "an answer without refresh token is asked again",
        "a refresh token that was dropped on the way",
        "lifecycle.py",
        "if account.unrotated == 0 or rotates:",
        "if rotates:",
        LIFE + "an_answer_without_a_refresh_token_is_asked_again_once",
    ),
    Safeguard(
        "who has rotated is asked again for the whole grace",
        "taking a spent token for fresh, since two answers lost theirs",
        "lifecycle.py",
        "if account.unrotated == 0 or rotates:",
        "if account.unrotated == 0:",
        LIFE + "a_server_that_has_rotated_is_asked_for_a_refresh_token_through_the_whole_grace",
    ),
    # ---- the write
    Safeguard(
        "compare-and-set of the record",
        "a write over what somebody else wrote meanwhile",
        "record.py",
        "version = await self._store.swap(self._name, sealed, expected=self._version)",
        "there = await self._store.read(self._name)\n"
        "            version = await self._store.swap(self._name, sealed, expected=there.version if there else None)",
        STORY + "whoever_slept_past_his_lease_adds_his_token",
    ),
    Safeguard(
        "compare-and-set of the memory store",
        "a write over what somebody else wrote meanwhile",
        "backends/memory.py",
        "if (kept.version if kept else None) != expected:",
        "if False:",
        CONTRACT + "TestMemoryStore::test_a_stale_write_writes_nothing",
    ),
    Safeguard(
        "compare-and-set of the file store",
        "a write over what somebody else wrote meanwhile",
        "backends/file.py",
        "if (current.version if current else None) != expected:",
        "if False:",
        CONTRACT + "TestFileStore::test_a_stale_write_writes_nothing",
    ),
    Safeguard(
        "compare-and-set of the Redis store",
        "a write over what somebody else wrote meanwhile",
        "backends/redis.py",
        "if (kept and redis.sha1hex(kept) or '') ~= ARGV[2] then return 0 end\n",
        "",
        REDIS + "one_of_many_writers_wins",
    ),
    Safeguard(
        "read-back where the reply was lost",
        "taking a write that went through for one that failed",
        "record.py",
        "if stored is None or self._opened(stored).write_id != account.write_id:",
        "if True:",
        STORY + "a_write_whose_reply_was_lost_is_read_back",
    ),
    Safeguard(
        "read-back by write id",
        "taking somebody else's write for one's own",
        "record.py",
        "if stored is None or self._opened(stored).write_id != account.write_id:",
        "if stored is None:",
        STORY + "whoever_slept_past_his_lease_adds_his_token",
    ),
    Safeguard(
        "Redis is asked once",
        "a library that repeats a write whose reply was lost",
        "backends/redis.py",
        '"retry": Retry(NoBackoff(), 0),',
        '"retry": Retry(NoBackoff(), 3),',
        REDIS + "a_write_whose_answer_was_lost_is_not_sent_again",
    ),
    Safeguard(
        "held in memory when the store fails",
        "a new token that is dropped because the disk is full",
        "record.py",
        "            await self._write_held()\n        except (StoreUnavailable, SealError) as error:\n",
        "            await self._write_held()\n        except (StoreUnavailable, SealError) as error:\n"
        "            self.unwritten = False\n",
        STORY + "what_the_store_can_not_take_is_held_and_written_later",
    ),
    Safeguard(
        "held record written by the tick",
        "a new token that dies with the process, although the store works again",
        "keeper.py",
        "if self._record.unwritten or self._record.problem is not None:",
        "if False:",
        STORY + "what_the_store_can_not_take_is_held_and_written_later",
    ),
    Safeguard(
        "close() writes what is held",
        "the same, at a stop",
        "keeper.py",
        "while self._record.unwritten:",
        "while False:",
        STORY + "closing_writes_what_was_held",
    ),
    Safeguard(
        "close() waits for what was begun",
        "SIGTERM in the middle of a refresh",
        "keeper.py",
        "while self._tasks:",
        "while False:",
        STORY + "closing_waits_for_the_refresh_and_keeps_it",
    ),
    Safeguard(
        "what is held outlives another act's save",
        "two acts of one process, and a new token that the one forgets for the other",
        "record.py",
        "if self.account is before:  # else",
        "if True:  # else",
        STORY + "what_is_held_while_another_act_is_at_the_store_stays[save]",
    ),
    Safeguard(
        "what is held outlives another act's read",
        "two acts of one process, and a new token that the one forgets for the other",
        "record.py",
        "if self.unwritten or self._seen is not seen:",
        "if False:",
        STORY + "what_is_held_while_another_act_is_at_the_store_stays[read]",
    ),
    Safeguard(
        "following the store drops nothing that is held",
        "another process's write that makes this one forget its new token",
        "record.py",
        "if not unchanged() or self.unwritten or (",
        "if not unchanged() or (",
        STORY + "what_is_held_is_not_dropped_for_what_another_process_wrote",
    ),
    Safeguard(
        "fsync of the file",
        "a power cut: a record that is torn or empty",
        "backends/file.py",
        "os.fsync(opened)",
        "pass",
        FILE + "a_save_is_on_the_disk_before_it_is_acknowledged",
    ),
    Safeguard(
        "fsync of the folder",
        "a power cut: the record before, though the new one was acknowledged",
        "backends/file.py",
        "            self._sync(folder)\n        return hashlib",
        "        return hashlib",
        FILE + "a_save_is_on_the_disk_before_it_is_acknowledged",
    ),
    Safeguard(
        "fsync of the folder by a reader",
        "reading back as kept what a power cut may yet undo",
        "backends/file.py",
        "if self._unsynced:",
        "if False:",
        FILE + "what_may_yet_be_undone_is_not_read_back_as_kept",
    ),
    Safeguard(
        "fsync of the folder above a new one",
        "a power cut that takes the whole folder",
        "backends/file.py",
        "os.fsync(above)",
        "pass",
        FILE + "a_new_folder_is_on_the_disk_before_it_is_used",
    ),
    Safeguard(
        "temporary file and rename",
        "a full disk or a kill in the middle of a write in place",
        "backends/file.py",
        "            with self._written(folder, name, value) as temporary:\n"
        "                os.rename(temporary, name + RECORD, src_dir_fd=folder, dst_dir_fd=folder)\n",
        "            record = self._open(folder, name + RECORD, os.O_RDWR | os.O_CREAT | os.O_TRUNC)\n"
        '            with os.fdopen(record, "wb") as stream:\n'
        "                stream.write(value)\n"
        "                stream.flush()\n"
        "                os.fsync(record)\n",
        FILE + "a_save_that_fails_leaves_the_old_record",
    ),
    Safeguard(
        "temporary file made exclusively",
        "writing into a file that somebody put there",
        "backends/file.py",
        "os.O_RDWR | os.O_CREAT | os.O_EXCL",
        "os.O_RDWR | os.O_CREAT",
        FILE + "a_save_is_on_the_disk_before_it_is_acknowledged",
    ),
    Safeguard(
        "lock around compare and replace",
        "two writers that both find the version they expect",
        "backends/file.py",
        "while not held.take(self._open(folder, name + LOCK, os.O_RDWR | os.O_CREAT)):",
        "while False:",
        FILE + "a_writer_that_hangs_does_not_hang_others",
    ),
    Safeguard(
        "symbolic links refused",
        "a record that is led elsewhere",
        "backends/file.py",
        "flags | os.O_NOFOLLOW | ",
        "flags | ",
        FILE + "a_record_that_is_not_ours_alone_is_refused",
    ),
    Safeguard(
        "files open to others refused",
        "another user who reads or changes the record",
        "backends/file.py",
        "closed=0o7177",
        "closed=0",
        FILE + "a_record_that_is_not_ours_alone_is_refused",
    ),
    Safeguard(
        "folder open to others refused",
        "another user who puts another record in its place",
        "backends/file.py",
        "closed=0o022",
        "closed=0",
        FILE + "a_folder_that_others_may_write_to_is_refused",
    ),
    Safeguard(
        "another owner's files refused",
        "another user who owns the record",
        "backends/file.py",
        "if found.st_uid not in owners:",
        "if False:",
        FILE + "what_belongs_to_another_user_is_refused",
    ),
    Safeguard(
        "seal bound to the account's name",
        "one account's record put in the place of another's",
        "sealing.py",
        " or envelope.context != dict(context):",
        ":",
        "tests/test_account.py::test_sealed_text_opens_with_the_same_purpose_and_owner_only",
    ),
    Safeguard(
        "fields that are not known are refused",
        "a write of an older version that drops what a newer one kept",
        "account.py",
        "forbid_unknown_fields=True",
        "forbid_unknown_fields=False",
        "tests/test_account.py::test_a_field_that_is_not_known_is_refused",
    ),
    # ---- rivals and merges
    Safeguard(
        "rivals: the loser's new token joins",
        "the loser of a race that throws its new token away",
        "record.py",
        "self._hold(lifecycle.merged(*pair), above=theirs)",
        "self._hold(pair[0], above=theirs)",
        STORY + "whoever_slept_past_his_lease_adds_his_token",
    ),
    Safeguard(
        "rivals: what two records hold is united",
        "a token that only one of them knows",
        "lifecycle.py",
        "rivals=(*(t for t in joining if t not in older), *staying, *older),",
        "rivals=tuple(staying),",
        LIFE + "tokens_of_one_consent_are_united",
    ),
    Safeguard(
        "rivals: soon proved",
        "finding out only after the grace that the other token was the live one",
        "lifecycle.py",
        "current.obtained_at + policy.refresh_lifetime, *proofs)",
        "current.obtained_at + policy.refresh_lifetime)",
        LIFE + "a_rival_that_arrived_is_proved_soon_and_then_dropped",
    ),
    Safeguard(
        "rivals: one that arrives during a proof stays",
        "dropping a live token for a proof that was asked for before it came",
        "lifecycle.py",
        "return token.obtained_at > (proved.first_spent_at or now)",
        "return False",
        LIFE + "a_rival_that_arrives_during_the_proof_stays",
    ),
    Safeguard(
        "spent token kept",
        "an answer whose token does not work: the spent one still would",
        "lifecycle.py",
        "rest = (spent, *rest)",
        "pass",
        LIFE + "issued_moves_on_and_keeps_the_spent_token",
    ),
    Safeguard(
        "spent token kept for 30 minutes",
        "the same, after the next refresh",
        "lifecycle.py",
        "    return now - token.first_spent_at < policy.grace",
        "    return False",
        LIFE + "a_spent_token_leaves_when_its_successor_is_proved_and_the_grace_is_over",
    ),
    Safeguard(
        "rivals spent before the grace are left alone",
        "late reuse, for which a server may end the whole chain",
        "lifecycle.py",
        "t is current or _within_grace(t, now, policy) or",
        "True or",
        LIFE + "a_rival_is_never_reused_after_the_grace",
    ),
    Safeguard(
        "unspent rivals before a current token of long ago",
        "late reuse, for which a server may end the whole chain",
        "lifecycle.py",
        "if token is current and _within_grace(token, now, policy):",
        "if token is current:",
        LIFE + "a_fresh_rival_is_tried_before_a_current_token_whose_grace_is_over",
    ),
    Safeguard(
        "rivals within their grace before a current token of long ago",
        "the same, once the rival was tried",
        "lifecycle.py",
        "return 2 if replayed or _surely_within_grace(token.first_spent_at, now, policy) else 3",
        "return 2 if token is current else 3",
        LIFE + "a_rival_within_its_grace_is_tried_before_a_current_token_whose_grace_is_over",
    ),
    Safeguard(
        "what a replay brought is tried before what brought it",
        "the same two tokens again and again, till the grace of both is over",
        "lifecycle.py",
        "replayed = token is current and open_one is None",
        "replayed = False",
        LIFE + "a_current_token_that_a_replay_brought_is_tried_before_the_one_that_brought_it",
    ),
    Safeguard(
        "a rival that was spent in the future comes after that",
        "late reuse, where a clock stepped back",
        "lifecycle.py",
        "return -CLOCK_SKEW <= now - spent_at < policy.grace",
        "return now - spent_at < policy.grace",
        LIFE + "a_rival_within_its_grace_is_tried_before_a_current_token_whose_grace_is_over",
    ),
    Safeguard(
        "a replayed answer makes nothing fresh",
        "a spent token that counts as new",
        "lifecycle.py",
        "(t for t in _others(account, spent) if t.value == issued.refresh_token)",
        "(t for t in ())",
        LIFE + "a_replay_of_an_earlier_answer_makes_nothing_fresh",
    ),
    Safeguard(
        "late answer joins what this process went on to",
        "a refresh that was slept through, and writes over a new login",
        "record.py",
        "if self.account.write_id != after.write_id:",
        "if False:",
        STORY + "a_late_answer_does_not_overwrite_a_new_login_that_was_followed",
    ),
    Safeguard(
        "consent id: only its own consent's tokens join",
        "a token of an ended login among those of the next",
        "lifecycle.py",
        "return account.consent_id is not None and account.consent_id == other.consent_id",
        "return True",
        STORY + "a_token_of_an_ended_consent_is_dropped",
    ),
    Safeguard(
        "consent id cleared at an end",
        "a late answer that revives a login which was ended",
        "lifecycle.py",
        "        account,\n        consent_id=None,\n",
        "        account,\n",
        STORY + "a_late_answer_does_not_revive_a_login_that_was_ended",
    ),
    Safeguard(
        "an end wins over the login before it",
        "a logout that another process's refresh undoes",
        "lifecycle.py",
        "if winner.consent_id is None and loser.consent_id is not None and winner.ended_at is not None:",
        "if False:",
        LIFE + "an_end_wins_over_the_login_before_it_and_loses_to_the_one_after",
    ),
    Safeguard(
        "the newest consent wins",
        "an old login that takes the place of a new one",
        "lifecycle.py",
        "winner, loser = (other, base) if consent_epoch(other) > consent_epoch(base) else (base, other)",
        "winner, loser = base, other",
        LIFE + "the_newest_consent_wins_a_merge",
    ),
    Safeguard(
        "lost writes: by the generation",
        "an old dump of Redis that is followed, and does not know what was spent",
        "record.py",
        "theirs.generation < seen.generation\n            or lifecycle",
        "lifecycle",
        STORY + "an_intent_that_the_store_has_lost_is_written_again",
    ),
    Safeguard(
        "lost writes: by the consent",
        "a login that a fail-over lost, after which others wrote on",
        "record.py",
        "            or lifecycle.consent_epoch(theirs) < lifecycle.consent_epoch(seen)\n",
        "",
        STORY + "a_login_that_a_fail_over_lost_is_written_again_over_later_writes",
    ),
    Safeguard(
        "lost writes: by the tokens",
        "an old dump that others wrote on, until a live token was forgotten",
        "record.py",
        "            or lifecycle.branched_off(theirs, seen)\n",
        "",
        STORY + "what_an_old_dumps_next_process_writes_drops_no_live_token",
    ),
    Safeguard(
        "lost writes: not told by a clock",
        "a token that was spent long ago, and is taken up again since a wrong clock dated it",
        "lifecycle.py",
        "for token in _tokens(theirs)} | set(theirs.dropped)",
        "for token in _tokens(theirs)}",
        STORY + "a_token_that_a_wrong_clock_dated_does_not_make_the_store_seem_restored",
    ),
    Safeguard(
        "what was dropped does not come back",
        "an old dump's token that seems unspent, and was spent long ago",
        "lifecycle.py",
        "if t.value not in held and not _outlived(t, first)]",
        "if t.value not in held]",
        LIFE + "what_was_dropped_does_not_come_back_from_an_old_dump",
    ),
    Safeguard(
        "what was dropped elsewhere does not stay",
        "the same, where the old dump's record is the one that is joined",
        "lifecycle.py",
        "for t in first.rivals if not _outlived(t, second)]",
        "for t in first.rivals]",
        LIFE + "what_was_dropped_does_not_come_back_from_an_old_dump",
    ),
    Safeguard(
        "what another line has dropped is not gone on from",
        "a process that was cut off, and takes its own current token for unspent when it comes back",
        "lifecycle.py",
        "if new in base.dropped or old in account.dropped:",
        "if new in base.dropped:",
        STORY + "what_another_line_has_dropped_is_not_gone_on_from",
    ),
    Safeguard(
        "an answer that comes late goes first",
        "a token that is asked for again until its grace is over, and then ends the chain of its own successor",
        "lifecycle.py",
        "first, second = (other, base) if _goes_on(other, base) else (base, other)",
        "first, second = base, other",
        STORY + "a_successor_that_comes_late_is_what_is_tried_through_an_outage",
    ),
    Safeguard(
        "what is held goes on from a record that was sealed anew",
        "taking what another key sealed for what another process did",
        "record.py",
        "ours_first = lost or theirs.write_id == self._seen.write_id",
        "ours_first = lost",
        STORY + "a_record_that_was_sealed_anew_does_not_hide_what_a_process_holds",
    ),
    Safeguard(
        "a tombstone goes with a merge",
        "a record that looks like another line's, since it does not know what it has dropped",
        "lifecycle.py",
        "united = _remembering(united, other.dropped)",
        "pass",
        LIFE + "a_record_that_goes_on_from_ours_is_told_by_the_tokens_it_has_dropped",
    ),
    Safeguard(
        "tombstones reach back only so far",
        "a record that looks like another line's, since it has forgotten what it dropped",
        "lifecycle.py",
        "\n        and theirs.dropped_ever - ours.dropped_ever <= len(theirs.dropped)",
        "",
        LIFE + "a_record_that_goes_on_from_ours_is_told_by_the_tokens_it_has_dropped",
    ),
    Safeguard(
        "lost writes: by the write id",
        "a token that a fail-over lost, after which another wrote as often",
        "record.py",
        "return theirs.write_id != seen.write_id",
        "return False",
        STORY + "a_write_that_a_fail_over_lost_is_missed_although_another_took_its_generation",
    ),
    # ---- what condemns a token
    Safeguard(
        "lost only when all candidates are refused",
        "giving a login up while another of its tokens would issue",
        "lifecycle.py",
        "if next(candidates(account, now, policy or Policy()), None) is None:",
        "if account.current and account.current.refused_at:",
        LIFE + "consent_is_lost_only_when_every_candidate_is_refused",
    ),
    Safeguard(
        "only invalid_grant condemns",
        "any 4xx, or a page with that word in it, that costs the login",
        "xero.py",
        'if code == "invalid_grant":',
        "if code:",
        "tests/test_xero.py::test_only_invalid_grant_exactly_condemns_a_token",
    ),
    Safeguard(
        "invalid_client drops nothing",
        "a mistyped secret that costs the login",
        "lifecycle.py",
        'return _failed(_unspent(account), outcome, "client-refused",',
        "return after_refused(account, Refused(detail=outcome.detail), now=now)\n            return _failed(\n"
        '                _unspent(account), outcome, "client-refused",',
        LIFE + "a_refused_client_drops_nothing_and_is_tried_slowly",
    ),
    Safeguard(
        "both secrets are tried",
        "a mistyped secret in the settings",
        "keeper.py",
        "*others, last = self._credentials()",
        "others, last = (), self._credentials()[0]",
        STORY + "a_changed_secret_and_the_old_one_are_both_tried",
    ),
    Safeguard(
        "an old intent condemns nothing (current token)",
        "an outage longer than the grace, or a clock that stepped",
        "lifecycle.py",
        "t is current or _within_grace(t, now, policy) or",
        "_within_grace(t, now, policy) or",
        LIFE + "a_current_token_that_was_spent_long_ago_is_tried_also_without_an_intent",
    ),
    Safeguard(
        "an old intent condemns nothing (rival)",
        "the same, where the last candidate is a rival",
        "lifecycle.py",
        " or t.value.fingerprint == open_one\n",
        "\n",
        LIFE + "an_older_rival_whose_answer_is_open_is_not_condemned_by_the_clock",
    ),
    Safeguard(
        "the predecessor of a refused token is the last hope",
        "the same, where the clock makes it seem spent too long ago",
        "lifecycle.py",
        "live += [spent] if spent and spent not in live else []",
        "pass",
        LIFE + "the_predecessor_of_a_refused_token_is_the_last_hope_whatever_the_clock_says",
    ),
    Safeguard(
        "an old dump's unspent token comes last",
        "late reuse, for which a server may end the whole chain",
        "lifecycle.py",
        "return 1 if current is None or current.obtained_at - token.obtained_at < policy.grace else 4",
        "return 1",
        LIFE + "an_unspent_token_of_an_old_dump_is_tried_last",
    ),
    Safeguard(
        "an end or a login is newer than what was before",
        "a clock that stepped back, and a merge in which the older one wins",
        "lifecycle.py",
        "return max(now, datetime.fromtimestamp(consent_epoch(account), UTC) + timedelta(microseconds=1))",
        "return now",
        STORY + "an_end_is_never_older_than_its_login",
    ),
    Safeguard(
        "an open intent survives a merge",
        "a late request that killed the others' tokens, and of which nobody knows",
        "lifecycle.py",
        "intent=base.intent or other.intent,",
        "intent=base.intent,",
        LIFE + "an_open_intent_survives_a_merge",
    ),
    Safeguard(
        "a failed login changes nothing",
        "a second login that fails and costs the first",
        "keeper.py",
        "began_at, known = self.clock(), self.account\n",
        "began_at, known = self.clock(), self.account\n"
        "        await self._record.keep(lifecycle.after_end(known, forget=False, now=began_at), after=known)\n",
        STORY + "a_failed_login_changes_nothing",
    ),
    Safeguard(
        "the store is read before a code is spent",
        "a login that can't be kept",
        "keeper.py",
        "    async def _login(self, attempt: LoginAttempt) -> None:\n        async with self._door():",
        "    async def _login(self, attempt: LoginAttempt) -> None:\n        if True:",
        STORY + "a_login_the_store_can_not_take_spends_no_code[read]",
    ),
    Safeguard(
        "the store is tried before a code is spent",
        "a login that only one process knows, and that an end which only another knows takes with it",
        "keeper.py",
        "        await self._store.check()  # a login that can't be kept is not begun\n",
        "",
        STORY + "a_login_the_store_can_not_take_spends_no_code[swap]",
    ),
    Safeguard(
        "a login without refresh token is refused",
        "a login that is over after half an hour",
        "keeper.py",
        "        if outcome.refresh_token is None:\n",
        "        if False:\n",
        STORY + "a_login_without_a_refresh_token_fails_whatever_its_scopes",
    ),
    Safeguard(
        "token URL checked before a token is sent",
        "a token that is shown to another identity server",
        "keeper.py",
        "return self.account.token_url not in (None, self._xero.endpoints.token_url)",
        "return False",
        STORY + "another_identity_servers_login_is_neither_spent_nor_revoked",
    ),
    Safeguard(
        "redirects are not followed",
        "a token that is sent to wherever an answer points",
        "xero.py",
        "follow_redirects=False,",
        "follow_redirects=True,",
        "tests/test_xero.py::test_redirects_are_never_followed",
    ),
    # ---- waits and clocks
    Safeguard(
        "cap of a 429's wait while an intent is open",
        "a wait of an hour in which the grace ends",
        "lifecycle.py",
        "return policy.slow_wait if account.intent else policy.longest_wait",
        "return policy.longest_wait",
        LIFE + "retry_after_is_kept_but_capped_while_a_refresh_is_open",
    ),
    Safeguard(
        "cap of back-off",
        "the same, after many failures",
        "lifecycle.py",
        "return min(ceiling, policy.longest_backoff) * jitter",
        "return ceiling * jitter",
        LIFE + "waits_after_an_unknown_fit_the_grace_many_times",
    ),
    Safeguard(
        "back-off grows",
        "hammering a server that is in trouble",
        "lifecycle.py",
        "policy.first_wait * 2 ** min(account.tries, 20)",
        "policy.first_wait",
        LIFE + "retry_after_zero_does_not_turn_back_off_off",
    ),
    Safeguard(
        "waits are kept",
        "asking Xero at every tick and by every caller",
        "lifecycle.py",
        "        return Wait(until)\n    return Spend(token)",
        "        pass\n    return Spend(token)",
        LIFE + "a_wait_that_was_asked_for_is_kept",
    ),
    Safeguard(
        "a wait from a stepped clock counts as reached (refresh)",
        "a clock that stepped back by a day, and no refresh in it",
        "lifecycle.py",
        "now < until <= now + _longest_wait(account, policy) + policy.first_wait and not mended:",
        "now < until and not mended:",
        LIFE + "a_wait_from_a_clock_that_stepped_back_counts_as_reached",
    ),
    Safeguard(
        "a wait from a stepped clock counts as reached (revocation)",
        "the same, with a login that Xero is to end",
        "lifecycle.py",
        "now < until <= now + policy.longest_wait\n",
        "now < until\n",
        LIFE + "a_revocations_wait_from_a_clock_that_stepped_back_counts_as_reached",
    ),
    Safeguard(
        "access token from the future not served",
        "a clock that stepped back, and a token that is dead before it seems so",
        "lifecycle.py",
        "account.consent_id is None or _from_the_future(access, now):",
        "account.consent_id is None:",
        LIFE + "a_clock_that_stepped_back_does_not_lengthen_a_life",
    ),
    Safeguard(
        "the machine's own time, beside the clock",
        "a dead access token, where a clock that stepped back says that it lives",
        "keeper.py",
        "dated = lifecycle.ending_within(account, timedelta(seconds=self._first_seen[1] - elapsed), now)",
        "dated = account",
        STORY + "a_clock_that_steps_back_does_not_lengthen_a_life",
    ),
    Safeguard(
        "a good access token goes on beside one that seems dead",
        "two hosts with different clocks, that refresh against each other at every tick",
        "keeper.py",
        "if lifecycle.good_for(other, now) > lifecycle.good_for(dated, now):",
        "if False:",
        STORY + "hosts_whose_clocks_differ_do_not_refresh_against_each_other",
    ),
    Safeguard(
        "what is due at once is so for a clock that stepped back",
        "a refresh that waits until tomorrow comes again",
        "lifecycle.py",
        "if due_at > now and not (at_once or ",
        "if due_at > now and not (",
        LIFE + "what_is_due_at_once_is_so_although_a_clock_stepped_back",
    ),
    Safeguard(
        "a retry's access token counts from the first try",
        "serving a token that died, since the answer was a replay",
        "lifecycle.py",
        "if spent.first_spent_at is not None and not (intent and intent.stamped):",
        "if False:",
        LIFE + "on_a_retry_the_access_tokens_life_counts_from_the_first_try",
    ),
    Safeguard(
        "an access token of unknown age is not served",
        "the same, where a clock may have stepped between the tries",
        "lifecycle.py",
        "if datable else began - _life(issued)",
        "if datable else began",
        LIFE + "a_retrys_access_token_of_unknown_age_is_not_served",
    ),
    Safeguard(
        "absurd lives are not believed",
        "serving for a year a token that died",
        "lifecycle.py",
        "return min(issued.life, LONGEST_LIFE) if issued.life else ASSUMED_LIFE",
        "return issued.life or ASSUMED_LIFE",
        LIFE + "an_absurd_life_is_not_believed",
    ),
    Safeguard(
        "refresh token rotated at its lifetime",
        "a refresh token that dies unused after 60 days",
        "lifecycle.py",
        "return min(access.expires_at - ahead, current.obtained_at + policy.refresh_lifetime,",
        "return min(access.expires_at - ahead, access.expires_at,",
        LIFE + "the_refresh_token_is_rotated_at_its_lifetime_whatever_else",
    ),
    Safeguard(
        "serving stops before an end is carried out",
        "handing out a token while its login is being ended",
        "keeper.py",
        "self._ending = True",
        "self._ending = False",
        STORY + "nothing_is_served_while_an_end_waits_for_its_turn",
    ),
)


# ----------------------------------------------------------------------------------------- the runs


def places(safeguard: Safeguard) -> int:
    """How often the text that makes it occurs in the source; 1 is right."""
    return (ROOT / "xots" / safeguard.file).read_text().count(safeguard.old)


@contextmanager
def _copy(safeguard: Safeguard | None = None) -> Iterator[Path]:
    """A folder with a copy of the package, as a wheel would install it; without the safeguard, if one is named."""
    with tempfile.TemporaryDirectory(prefix="xots-safeguards-") as name:
        folder = Path(name)
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "xots", folder / "xots", ignore=unwanted)
        shutil.copytree(ROOT / "templates", folder / "xots" / "templates", ignore=unwanted)
        if safeguard is not None:
            path = folder / "xots" / safeguard.file
            source = path.read_text()
            if (found := source.count(safeguard.old)) != 1:
                raise TableError(
                    f"{safeguard.name}: its text is {found} times in xots/{safeguard.file}, not once"
                )
            path.write_text(source.replace(safeguard.old, safeguard.new))
        yield folder


def _run(
    copy: Path, tests: Iterable[str], *options: str
) -> tuple[int | None, list[tuple[str, str, str]], str]:
    """Run tests on the copy: pytest's status (None: it hung), each report (test, phase, outcome), what it printed.

    It is run in the copy's folder, so that the copy comes first for whatever the tests start, too.
    """
    reports = copy / "reports"
    reports.touch()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "torture.safeguards",
        *options,
    ]
    command += [
        "--rootdir",
        str(ROOT),
        "-c",
        str(ROOT / "pyproject.toml"),
        *(str(ROOT / test) for test in tests),
    ]
    paths = [str(copy), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    told = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        COPY: str(copy),
        REPORTS: str(reports),
    }
    with subprocess.Popen(
        command,
        cwd=copy,
        env=os.environ | told,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            status, printed = None, ""
        finally:
            if (
                process.returncode is None
            ):  # with all that the tests started, which is in the same session
                os.killpg(process.pid, signal.SIGKILL)
    lines = (line.split("\t") for line in reports.read_text().splitlines())
    return status, [(test, phase, outcome) for test, phase, outcome in lines], printed


def pytest_sessionstart() -> None:
    """In such a run, where this module is a plug-in: see that it is the copy that is tested."""
    import pytest

    import xots

    if not Path(xots.__file__).is_relative_to(os.environ[COPY]):
        pytest.exit(
            f"it is {xots.__file__} that is imported, not the copy in {os.environ[COPY]}",
            returncode=3,
        )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In such a run: write down what came of a test."""
    with Path(os.environ[REPORTS]).open("a") as file:
        file.write(f"{report.nodeid}\t{report.when}\t{report.outcome}\n")


def _is_of(node: str, test: str) -> bool:
    """Is ``node`` this test, or a case of it?"""
    return node == test or node.startswith(f"{test}[")


def collect(safeguards: Sequence[Safeguard]) -> None:
    """See that all their tests exist.

    Raises:
        TableError: one does not.
    """
    with _copy() as copy:
        status, _, printed = _run(copy, _tests(safeguards), "--collect-only")
    if status != 0:
        raise TableError(f"not all tests of the table are there:\n{printed}")


def try_untouched(safeguards: Sequence[Safeguard]) -> None:
    """Run all their tests on an untouched copy.

    Raises:
        TableError: one does not pass.
    """
    with _copy() as copy:
        status, reports, printed = _run(copy, _tests(safeguards))
    if status != 0:
        raise TableError(f"on the untouched code, the tests do not pass:\n{printed or 'they hang'}")
    for test in _tests(safeguards):
        outcomes = {
            outcome for node, phase, outcome in reports if phase == "call" and _is_of(node, test)
        }
        if outcomes != {"passed"}:
            raise TableError(
                f"{test} does not pass on the untouched code: {', '.join(outcomes) or 'it does not run'}"
            )


def take_out(safeguard: Safeguard) -> str:
    """Run its test without it: "fails", "hangs" where that is foreseen, or else "SURVIVES" and how.

    Raises:
        TableError: its text is not in the source exactly once, or the run was not one of its test.
    """
    with _copy(safeguard) as copy:
        status, reports, printed = _run(copy, [safeguard.test], "-x")
    if status is None:
        return "hangs" if safeguard.hangs else "SURVIVES (the test hangs)"
    if status == 0:
        return "SURVIVES"
    failed = [node for node, phase, outcome in reports if (phase, outcome) == ("call", "failed")]
    if status != 1 or not all(_is_of(node, safeguard.test) for node in failed):
        raise TableError(
            f"{safeguard.name}: its test could not be run (status {status}):\n{printed}"
        )
    return "fails" if failed else "SURVIVES (an error around the test)"


def _tests(safeguards: Sequence[Safeguard]) -> list[str]:
    """The tests, each once."""
    return list(dict.fromkeys(safeguard.test for safeguard in safeguards))


# ---------------------------------------------------------------------------------------------- the command

COLUMNS = {"safeguard": 40, "protects from": 46, "without it": 10, "test": 105}


def _line(*texts: str) -> str:
    """A line of the table, as many lines high as its texts need."""
    columns = [
        textwrap.wrap(text, width) or [""]
        for text, width in zip(texts, COLUMNS.values(), strict=True)
    ]
    height = max(map(len, columns))
    rows = zip(*(column + [""] * (height - len(column)) for column in columns), strict=True)
    return "\n".join(
        " | ".join(
            f"{cell:{width}}" for cell, width in zip(row, COLUMNS.values(), strict=True)
        ).rstrip()
        for row in rows
    )


def main(arguments: list[str]) -> int:
    """Take out each safeguard in turn, and print the table."""
    parser = argparse.ArgumentParser(
        prog="torture safeguards",
        description="Take each safeguard out of a copy of the program, and see that the test named for it fails.",
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="how many runs at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only those whose name holds this text"
    )
    options = parser.parse_args(arguments)
    safeguards = [safeguard for safeguard in SAFEGUARDS if options.only in safeguard.name]
    if not safeguards:
        parser.error(f"no safeguard's name holds {options.only!r}")
    began_at = time.monotonic()
    try:
        try_untouched(safeguards)
    except TableError as error:
        print(error, file=sys.stderr)
        return 1
    print(_line(*COLUMNS))
    print("-|-".join("-" * width for width in COLUMNS.values()))
    bad = []

    def outcome_of(safeguard: Safeguard) -> str:
        try:
            return take_out(safeguard)
        except TableError as error:
            return f"ERROR: {error}"

    with ThreadPoolExecutor(options.jobs) as pool:
        for safeguard, outcome in zip(safeguards, pool.map(outcome_of, safeguards), strict=True):
            print(
                _line(
                    safeguard.name,
                    safeguard.protects_from,
                    outcome.partition(":")[0],
                    safeguard.test,
                ),
                flush=True,
            )
            if outcome not in ("fails", "hangs"):
                bad.append(f"{safeguard.name}: {outcome}")
    print(
        f"\n{len(safeguards)} safeguards taken out, {len(_tests(safeguards))} tests, "
        f"{time.monotonic() - began_at:.0f} s: without it, the named test fails for {len(safeguards) - len(bad)} "
        f"of {len(safeguards)}"
    )
    for line in bad:
        print(line)
    return 1 if bad else 0
