"""OTP's protocols over plain messages: gen_server calls, servers, net_kernel, rpc."""
