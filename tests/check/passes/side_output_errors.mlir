// RUN: attir opt %s --passes=side-output{of=column} --split-input-file --verify-diagnostics

"builtin.module"() ({
  // expected-error@below {{must hold one 'attn.attention' and nothing else for a statistic of it}}
  "func.func"() <{function_type = (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, tensor<?x?x?x16xf16, #attir.sym<B, K, N>>, tensor<?x?x?x16xf16, #attir.sym<B, K, N>>) -> (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>), sym_name = "causal"}> ({
^bb0(%q: tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, %k: tensor<?x?x?x16xf16, #attir.sym<B, K, N>>, %v: tensor<?x?x?x16xf16, #attir.sym<B, K, N>>):
  %out, %lse = "attn.attention"(%q, %k, %v) <{group = 2 : i64, scale = 2.5e-01 : f32}> ({
  }, {
  ^bb1(%b: index, %h: index, %m: index, %n: index):
    %kept = "arith.cmpi"(%n, %m) <{predicate = 3 : i64}> : (index, index) -> i1
    "attn.yield"(%kept) : (i1) -> ()
  }) : (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, tensor<?x?x?x16xf16, #attir.sym<B, K, N>>, tensor<?x?x?x16xf16, #attir.sym<B, K, N>>) -> (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
  %twice = "aten.add.Tensor"(%out, %out) : (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>, tensor<?x?x?x16xf16, #attir.sym<B, H, M>>) -> tensor<?x?x?x16xf16, #attir.sym<B, H, M>>
  "func.return"(%twice) : (tensor<?x?x?x16xf16, #attir.sym<B, H, M>>) -> ()
}) : () -> ()
}) : () -> ()
