// RUN: attir opt %s --split-input-file --verify-diagnostics

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> tensor<1x4x?x?xi1, #attir.sym<MB, NB>>}> ({
  ^bb0(%q: tensor<1x4x?x16xf32, #attir.sym<M>>, %k: tensor<1x2x?x16xf32, #attir.sym<N>>):
    // expected-error@below {{result 'blocks' must be 1 x 2 x query blocks x key blocks of i1, but is tensor<1x4x?x?xi1, #attir.sym<MB, NB>>}}
    %blocks = "attn.select"(%q, %k) <{estimator = "quest"}> ({
    }) : (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> tensor<1x4x?x?xi1, #attir.sym<MB, NB>>
    "func.return"(%blocks) : (tensor<1x4x?x?xi1, #attir.sym<MB, NB>>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> tensor<1x2x?x?xi1, #attir.sym<MB, NB>>}> ({
  ^bb0(%q: tensor<1x4x?x16xf32, #attir.sym<M>>, %k: tensor<1x2x?x16xf32, #attir.sym<N>>):
    // expected-error@below {{block_n must be positive, but is 0}}
    %blocks = "attn.select"(%q, %k) <{estimator = "quest", block_n = 0 : i64}> ({
    }) : (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> tensor<1x2x?x?xi1, #attir.sym<MB, NB>>
    "func.return"(%blocks) : (tensor<1x2x?x?xi1, #attir.sym<MB, NB>>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> tensor<1x2x?x?xi1, #attir.sym<MB, NB>>}> ({
  ^bb0(%q: tensor<1x4x?x16xf32, #attir.sym<M>>, %k: tensor<1x2x?x16xf32, #attir.sym<N>>):
    // expected-error@below {{given must count captures, of which there are 0}}
    %blocks = "attn.select"(%q, %k) <{estimator = "quest", given = 1 : i64}> ({
    }) : (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> tensor<1x2x?x?xi1, #attir.sym<MB, NB>>
    "func.return"(%blocks) : (tensor<1x2x?x?xi1, #attir.sym<MB, NB>>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> tensor<1x2x?x?xi1, #attir.sym<MB, NB>>}> ({
  ^bb0(%q: tensor<1x4x?x16xf32, #attir.sym<M>>, %k: tensor<1x2x?x16xf32, #attir.sym<N>>):
    // expected-error@below {{region 'mask' must take (index, index, index, index)}}
    %blocks = "attn.select"(%q, %k) <{estimator = "quest"}> ({
    ^bb1(%b: index):
      %t = "arith.constant"() <{value = true}> : () -> i1
      "attn.yield"(%t) : (i1) -> ()
    }) : (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> tensor<1x2x?x?xi1, #attir.sym<MB, NB>>
    "func.return"(%blocks) : (tensor<1x2x?x?xi1, #attir.sym<MB, NB>>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> tensor<1x2x?x?xi1, #attir.sym<MB, NB>>}> ({
  ^bb0(%q: tensor<1x4x?x16xf32, #attir.sym<M>>, %k: tensor<1x2x?x16xf32, #attir.sym<N>>):
    // expected-error@below {{region 'mask' must yield i1, but yields index}}
    %blocks = "attn.select"(%q, %k) <{estimator = "quest"}> ({
    ^bb1(%b: index, %h: index, %m: index, %n: index):
      "attn.yield"(%b) : (index) -> ()
    }) : (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> tensor<1x2x?x?xi1, #attir.sym<MB, NB>>
    "func.return"(%blocks) : (tensor<1x2x?x?xi1, #attir.sym<MB, NB>>) -> ()
  }) : () -> ()
}) : () -> ()
