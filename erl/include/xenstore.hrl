%% Numbers and states of XenStore as LING's sources name them (xen/include/public/io/xs_wire.h, xenbus.h).

-define(XS_RING_SIZE, 1024).

-define(XS_DEBUG, 0).
-define(XS_DIRECTORY, 1).
-define(XS_READ, 2).
-define(XS_GET_PERMS, 3).
-define(XS_WATCH, 4).
-define(XS_UNWATCH, 5).
-define(XS_TRANSACTION_START, 6).
-define(XS_TRANSACTION_END, 7).
-define(XS_INTRODUCE, 8).
-define(XS_RELEASE, 9).
-define(XS_GET_DOMAIN_PATH, 10).
-define(XS_WRITE, 11).
-define(XS_MKDIR, 12).
-define(XS_RM, 13).
-define(XS_SET_PERMS, 14).
-define(XS_WATCH_EVENT, 15).
-define(XS_ERROR, 16).
-define(XS_IS_DOMAIN_INTRODUCED, 17).
-define(XS_RESUME, 18).
-define(XS_SET_TARGET, 19).
-define(XS_RESTRICT, 20).
-define(XS_RESET_WATCHES, 21).
-define(XS_DIRECTORY_PART, 22).

-define(STATE_INITIALISING, "1").
-define(STATE_INIT_WAIT, "2").
-define(STATE_INITIALISED, "3").
-define(STATE_CONNECTED, "4").
-define(STATE_CLOSING, "5").
-define(STATE_CLOSED, "6").
