%% What the membrane's pure parts share: see membrane_machine.erl and membrane_pore.erl.

%% How two sides talk, or one side's wishes for it. The default is LING's: erlang, its dialect, its 8 pages.
-record(terms, {
    format = erlang :: erlang | json,
    dialect = ling :: ling | otp,
    %% bytes of a ring of a wide straw; 0: LING's layout
    ring_bytes = 0 :: non_neg_integer(),
    %% wide only: a side is poked only when it waits
    suppress = false :: boolean()
}).

%% Where a kind of pores is negotiated: each side has a directory for it in its own tree.
-record(layout, {
    kind :: straw | tube,
    active_top :: string(),
    passive_top :: string(),
    %% the key in the active directory that tells of a knock; its value is the passive directory
    knock :: string(),
    %% the key in the passive directory that names the active one
    back :: string(),
    %% several of two domains: the directories have one level more, the number of the pore
    many = false :: boolean()
}).

%% What peers and strangers may cost us, and how long things take. Times in milliseconds; whoever drives the machine
%% may use another unit for these and for its `Now` alike.
-record(limits, {
    %% knocks that may be looked at at once, and how many more in a millisecond; those beyond wait their turn
    knocks = 50,
    knock_rate = 0.05,
    %% knocks that wait; those beyond are counted and forgotten
    knocks_waiting = 1024,
    %% handshakes under way
    pending = 64,
    %% pores in all: each needs a watch, and a real store gives a domain about a hundred
    pores = 96,
    %% of one peer, for kinds that have many
    per_peer = 16,
    %% until an open has its answer: below gen_server:call's 5 s
    open_time = 4500,
    %% how often a peer is looked at without an event: while it is waited for, and when its straw is up
    look_time = 1000,
    look_connected = 15000,
    %% what a peer gets to remove an old directory of ours
    old_time = 2000,
    poll_time = 100,
    %% what an opener gets to say that it waits, before anything was granted
    opener_time = 10000,
    %% what a peer gets to say 4 when nobody waits for it any more
    finish_time = 60000,
    %% how long our 6 stays to be read
    linger_time = 1000,
    %% what a peer gets to unmap before we try to end its access
    close_time = 5000,
    retry_time = 250,
    %% when pages that a peer does not unmap are reported
    report_time = 10000,
    stop_time = 2000,
    %% what one gets to knock, who has made its directory when we stop
    shut_time = 500
}).

%% One pore from its knock to its end. `out` is what it has to say to the machine, latest first.
-record(pore, {
    id :: integer(),
    role :: passive | active,
    %% the peer, and which of the pores that one of the two sides has opened
    who :: membrane_keys:who(),
    peer :: integer(),
    me :: integer(),
    kind :: module(),
    layout :: #layout{},
    table :: membrane_table:table(),
    limits :: #limits{},
    state = 'START' :: atom(),
    %% an open of ours waits for this one, until then
    asked = false :: boolean(),
    late_at :: undefined | number(),
    look_at :: undefined | number(),
    %% when the state's own timer fires
    until :: undefined | number(),
    %% the first reason for its end
    why = '' :: atom(),
    wishes = #terms{} :: #terms{},
    terms = #terms{} :: #terms{},
    offer = none :: membrane_keys:offer() | none,
    opened = false :: boolean(),
    watching = false :: boolean(),
    %% a knock came while this one is closing: to be looked at afterwards
    again = false :: boolean(),
    %% the peer is our own kind, so far as it has said
    peer_kind = false :: boolean(),
    %% the machine stops: it is sent away as soon as its peer survives that
    leaving = false :: boolean(),
    peer_left = false :: boolean(),
    peer_dead = false :: boolean(),
    looking = false :: boolean(),
    looked_enough = false :: boolean(),
    dirty = false :: boolean(),
    %% inputs that came while work was under way
    waiting = [] :: [{atom(), atom()}],
    since :: undefined | number(),
    confirmed_at :: undefined | number(),
    our_dir = "" :: string(),
    peer_dir = "" :: string(),
    out = [] :: [term()]
}).
