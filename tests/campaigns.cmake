# Campaigns: the programs of tools/ in simulated worlds with everything going wrong. Each is a
# program; CTest runs a few seeds of it, COPSE_SEEDS and COPSE_STEPS ask for more.
#
#   copse_campaign(<noun>)
function(copse_campaign noun)
    add_executable(campaign_${noun} campaign_${noun}.cpp)
    set_target_properties(campaign_${noun} PROPERTIES CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON)
    target_link_libraries(campaign_${noun} PRIVATE copse_sim_internal)
    target_compile_options(campaign_${noun} PRIVATE -Wall -Wextra)
    add_test(NAME campaign.${noun} COMMAND campaign_${noun})
    set_tests_properties(campaign.${noun} PROPERTIES TIMEOUT 300)
endfunction()

if(COPSE_TEST_SIMULATION)
    copse_campaign(echo)
    copse_campaign(chat)
    copse_campaign(hello)
endif()
