// RUN: attir opt %s --passes="quantize{key=bits=4,zero=1}" --split-input-file --verify-diagnostics

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> tensor<1x4x?x16xf32, #attir.sym<M>>}> ({
  ^bb0(%q: tensor<1x4x?x16xf32, #attir.sym<M>>, %k: tensor<1x2x?x16xf32, #attir.sym<N>>, %v: tensor<1x2x?x16xf32, #attir.sym<N>>):
    // expected-error@below {{quantises rows as they enter the product, but region 'key' changes them}}
    %out, %lse = "attn.attention"(%q, %k, %v) <{scale = 2.5e-01 : f32, group = 2 : i64}> ({
    }, {
    }, {
    }, {
    }, {
    }, {
    ^bb1(%b: index, %h: index, %n: index, %d: index, %x: tensor<1x2x?x16xf32, #attir.sym<N>>):
      %e = "tensor.extract"(%x, %b, %h, %n, %d) : (tensor<1x2x?x16xf32, #attir.sym<N>>, index, index, index, index) -> f32
      "attn.yield"(%e) : (f32) -> ()
    }) : (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x4x?xf32, #attir.sym<M>>)
    "func.return"(%out) : (tensor<1x4x?x16xf32, #attir.sym<M>>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x8x16xf8E4M3FN>, tensor<1x2x8x16xf8E4M3FN>, tensor<1x2x8x16xf8E4M3FN>) -> tensor<1x2x8x16xf16>}> ({
  ^bb0(%q: tensor<1x2x8x16xf8E4M3FN>, %k: tensor<1x2x8x16xf8E4M3FN>, %v: tensor<1x2x8x16xf8E4M3FN>):
    // expected-error@below {{quantises numbers of 16 bits or more, but the operand of 'key' is tensor<1x2x8x16xf8E4M3FN>}}
    %out, %lse = "attn.attention"(%q, %k, %v) ({
    }, {
    }) : (tensor<1x2x8x16xf8E4M3FN>, tensor<1x2x8x16xf8E4M3FN>, tensor<1x2x8x16xf8E4M3FN>) -> (tensor<1x2x8x16xf16>, tensor<1x2x8xf32>)
    "func.return"(%out) : (tensor<1x2x8x16xf16>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x?xf32, #attir.sym<E>>) -> tensor<1x2x8x?xf32, #attir.sym<E>>}> ({
  ^bb0(%q: tensor<1x2x8x16xf32>, %k: tensor<1x2x8x16xf32>, %v: tensor<1x2x8x?xf32, #attir.sym<E>>):
    %out, %lse = "attn.attention"(%q, %k, %v) ({
    }, {
    }) : (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x?xf32, #attir.sym<E>>) -> (tensor<1x2x8x?xf32, #attir.sym<E>>, tensor<1x2x8xf32>)
    "func.return"(%out) : (tensor<1x2x8x?xf32, #attir.sym<E>>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x8x?xf32, #attir.sym<D>>, tensor<1x2x8x?xf32, #attir.sym<D>>, tensor<1x2x8x16xf32>) -> tensor<1x2x8x16xf32>}> ({
  ^bb0(%q: tensor<1x2x8x?xf32, #attir.sym<D>>, %k: tensor<1x2x8x?xf32, #attir.sym<D>>, %v: tensor<1x2x8x16xf32>):
    // expected-error@below {{quantises rows of a constant width, but the operand of 'key' is tensor<1x2x8x?xf32, #attir.sym<D>>}}
    %out, %lse = "attn.attention"(%q, %k, %v) ({
    }, {
    }) : (tensor<1x2x8x?xf32, #attir.sym<D>>, tensor<1x2x8x?xf32, #attir.sym<D>>, tensor<1x2x8x16xf32>) -> (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>)
    "func.return"(%out) : (tensor<1x2x8x16xf32>) -> ()
  }) : () -> ()
}) : () -> ()
